"""Hands each request that is due to an idle user, brings more users when none is idle, and writes down what they saw.

So the load stays open: a user that waits for its answer never delays the requests after it.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import gevent
from gevent.queue import SimpleQueue

from loadtests.users.load import Arrival
from loadtests.users.rows import HEADER, Outcome, Row

USERS_MAX: Final = 4000
"""Beyond that the system has lost count, and what is due is noted as an error without being sent."""
_MORE: Final = 16
_WRITE_S: Final = 0.25

Hire = Callable[[str, int], None]


class Office:
    """`hire` brings so many more users of a kind."""

    def __init__(self, samples: Path, hire: Hire) -> None:
        self.began = 0.0
        self._hire = hire
        self._waiting: dict[str, SimpleQueue[Arrival]] = {}
        self._idle: dict[str, int] = {}
        self._hired = 0
        self._open = 0
        self._rows: list[Row] = []
        self._file = samples.open("w")
        self._file.write(f"{HEADER}\n")
        self._file.flush()

    @property
    def now_s(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self.began

    def employ(self, kind: str, count: int = _MORE) -> None:
        self._waiting.setdefault(kind, SimpleQueue())
        self._idle[kind] = self._idle.get(kind, 0) + count  # they take what waits as soon as they are there
        self._hired += count
        self._hire(kind, count)

    def next(self, kind: str) -> Arrival:
        """What a user of this kind has to do next; it waits for that."""
        arrival: Arrival = self._waiting[kind].get()
        return arrival

    def done(self, kind: str, row: Row) -> None:
        self._rows.append(row)
        self._open -= 1
        self._idle[kind] += 1

    def send(self, arrivals: Iterable[Arrival]) -> None:
        """All of them, each when it is due; returns when the last one is handed out."""
        for arrival in arrivals:
            if (wait := arrival.due_s - self.now_s) > 0:
                gevent.sleep(wait)
            self._hand_out(arrival)

    def _hand_out(self, arrival: Arrival) -> None:
        kind = arrival.user
        if self._idle[kind] <= 0:
            if self._hired >= USERS_MAX:
                at = self.now_s
                self._rows.append(Row(arrival.due_s, at, at, kind, "", 0, Outcome.ERROR, "", ""))
                return
            self.employ(kind)
        self._idle[kind] -= 1
        self._open += 1
        self._waiting[kind].put(arrival)

    def finish(self, within_s: float) -> None:
        """Until what was sent has come to an end."""
        give_up = time.monotonic() + within_s
        while self._open and time.monotonic() < give_up:
            gevent.sleep(0.05)

    def keep_writing(self) -> None:
        """Again and again, so that others can read along."""
        while True:
            gevent.sleep(_WRITE_S)
            self.write()

    def write(self) -> None:
        rows, self._rows = self._rows, []
        self._file.write("".join(row.line() for row in rows))
        self._file.flush()

    def close(self) -> None:
        self.write()
        self._file.close()
