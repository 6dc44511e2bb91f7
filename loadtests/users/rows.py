"""A request's row in `samples.csv`. Pure.

Not here: writing it while a load runs (`office.py`).
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

HEADER: Final = "due_s,sent_s,done_s,user,model,status,outcome,version,degraded"


class Outcome(StrEnum):
    """What became of a request, as its client sees it."""

    OK = "ok"
    """For a poisonous request: that it alone got no good answer, or a marked one."""
    DEGRADED = "degraded"
    SHED = "shed"  # 429: told at once that it is too much
    ERROR = "error"  # another error, or no answer at all: then the status is 0
    WRONG = "wrong"  # another answer than the version gives, or a fallback's without its mark
    CANCELLED = "cancelled"  # its client went away, as it had meant to


class Row(NamedTuple):
    """Times are in seconds since the load began; its latency is `done_s - due_s`."""

    due_s: float
    sent_s: float
    done_s: float
    user: str
    model: str
    status: int
    outcome: Outcome
    version: str
    degraded: str

    @property
    def took_s(self) -> float:
        return self.done_s - self.due_s

    def line(self) -> str:
        times = f"{self.due_s:.5f},{self.sent_s:.5f},{self.done_s:.5f}"
        return f"{times},{self.user},{self.model},{self.status},{self.outcome},{self.version},{self.degraded}\n"


def parse_rows(lines: Iterable[str]) -> list[Row]:
    """Of whole lines without the header; a line that isn't one is a defect of ours and raises `ValueError`."""
    found = []
    for line in lines:
        due, sent, done, user, model, status, outcome, version, degraded = line.rstrip("\n").split(",")
        times = float(due), float(sent), float(done)
        found.append(Row(*times, user, model, int(status), Outcome(outcome), version, degraded))
    return found
