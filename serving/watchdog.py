"""Ends a process of which a part hangs, so that Serve replaces it: a dead one counts at once.

A thread of its own looks a few times a second. It counts its own turns, not the time on the clock: of a machine that
stood still, or was too busy even for this thread, it sees one turn. What keeps Python's lock (a hang inside C code)
keeps this thread too; that is noticed from outside, by Serve's health check. Not here: what it looks at.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple, NoReturn, Protocol

from serving.clock import Clock
from serving.log_lines import TextLines
from serving.stuck import Stuck

TURNS: Final = 20
TURN_MAX_S: Final = 0.25
LATE: Final = 2.0
"""A turn counts for at most so many times its length, however late it came."""

EXIT_CODE: Final = 70


class UnderWay(NamedTuple):
    """Something that has begun and not ended; ``began`` tells it from what comes after it."""

    began: object
    thread: int


class Watched(Protocol):
    """A part of this process that may hang. Asked from the watchdog's thread."""

    @property
    def name(self) -> str:
        """What doesn't end if it hangs."""
        ...

    def under_way(self) -> UnderWay | None: ...


class LoopTurns:
    """A turn of the event loop: asked for by the watchdog, begun and ended by the loop when it gets to it."""

    name = "a turn of the event loop"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._asked = 0
        self._turned = 0

    def under_way(self) -> UnderWay | None:
        if self._turned < self._asked:
            return UnderWay(self._asked, self._thread)
        try:
            self._asked += 1
            self._loop.call_soon_threadsafe(self._turn, self._asked)
        except RuntimeError:  # closed: the process ends anyway
            self._asked = self._turned
        return None

    def _turn(self, number: int) -> None:
        self._turned = number


class ModelRuns:
    """A run of the model. ``under_way`` as of ``serving.channel.runner.ModelRunner``."""

    name = "a run of the model"

    def __init__(self, under_way: Callable[[], tuple[float, int] | None]) -> None:
        self._under_way = under_way

    def under_way(self) -> UnderWay | None:
        found = self._under_way()
        return None if found is None else UnderWay(*found)


class Watchdog:
    """Starts to look when it is made."""

    def __init__(
        self,
        watched: Iterable[Watched],
        *,
        limit_s: float,
        clock: Clock,
        end: Callable[[str], None] | None = None,
    ) -> None:
        self._turn_s = min(TURN_MAX_S, limit_s / TURNS)
        self._watched = [(part, Stuck(limit_s, turn_max_s=LATE * self._turn_s)) for part in watched]
        self._limit_s = limit_s
        self._clock = clock
        self._end = end or functools.partial(end_process, lines=lines_of_the_log())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _look(self) -> None:
        before = self._clock.monotonic()
        while not self._stop.wait(self._turn_s):
            now = self._clock.monotonic()
            for part, stuck in self._watched:
                found = part.under_way()
                if stuck.turn(None if found is None else found.began, now - before) and found is not None:
                    self._end(f"{part.name} takes longer than {self._limit_s:g} s: {stack_of(found.thread)}")
                    return
            before = now


def stack_of(thread: int) -> str:
    """Where a thread of this process is, on one line, the innermost call first."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  # the only way to see another thread's stack
    if frame is None:
        return "its thread is gone"
    calls = traceback.extract_stack(frame)
    return " < ".join(f"{call.name} ({Path(call.filename).name}:{call.lineno})" for call in reversed(calls))


def lines_of_the_log() -> logging.Formatter:
    """How lines of this process's log look. Asked before anything hangs: logging has locks."""
    known = [handler.formatter for handler in logging.getLogger("holdfast").handlers]
    return next((lines for lines in known if lines is not None), TextLines())


def end_process(reason: str, *, lines: logging.Formatter) -> NoReturn:
    """Say why on standard error, in a line like those of the log, and be gone.

    Without a logger: its locks may be what hangs. To make a record and its line takes none.
    """
    said = f"{reason}; ending process {os.getpid()}"
    record = logging.LogRecord("holdfast.watchdog", logging.CRITICAL, __file__, 0, said, None, None)
    os.write(2, f"{lines.format(record)}\n".encode())
    os._exit(EXIT_CODE)
