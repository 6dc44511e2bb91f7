"""When a request is of no more use, and who is told so.

A timer for each request would be dear, so deadlines share a wheel of coarse slots: an entry expires at its deadline
or about one slot later, never before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from serving.clock import Clock
from serving.errors import InvalidRequest

log = logging.getLogger("holdfast.gateway")

SLOT_S: Final = 0.005
TIMEOUT_MAX_US: Final = 86_400_000_000


def budget_s(parameters: Mapping[str, Any], header: str | None, *, default_s: float) -> float:
    """The seconds that a request has.

    They are its ``timeout`` parameter's or its header's (both in microseconds; of two the smaller one counts), else
    ``default_s``. Raises ``InvalidRequest`` for anything but a whole number from 1 to a day's worth.
    """
    given: list[float] = []
    if (parameter := parameters.get("timeout")) is not None:
        if type(parameter) is not int:
            raise InvalidRequest(f"parameters.timeout: {parameter!r:.32} isn't a whole number of microseconds")
        given.append(_checked(parameter, "parameters.timeout"))
    if header is not None:
        if not header.isascii() or not header.isdecimal() or len(header) > 12:
            raise InvalidRequest(f"header {TIMEOUT_HEADER}: '{header[:32]}' isn't a whole number of microseconds")
        given.append(_checked(int(header), f"header {TIMEOUT_HEADER}"))
    return min(given) if given else default_s


TIMEOUT_HEADER: Final = "x-request-timeout-us"


def _checked(microseconds: int, where: str) -> float:
    if not 0 < microseconds <= TIMEOUT_MAX_US:
        raise InvalidRequest(f"{where}: {microseconds} isn't between 1 and {TIMEOUT_MAX_US} microseconds")
    return microseconds * 1e-6


class Expirable(Protocol):
    """Something that wants to know when its time is over."""

    deadline: float

    def expire(self) -> None: ...


class Deadlines:
    """The wheel. ``watch`` and ``forget`` cost a set operation; the timer only runs while something is watched."""

    def __init__(self, clock: Clock, *, slot_s: float = SLOT_S) -> None:
        self._clock = clock
        self._slot_s = slot_s
        self._slots: dict[int, set[Expirable]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, entry: Expirable) -> None:
        """Call ``entry.expire()`` once its deadline has passed, unless it is forgotten before."""
        slot = int(entry.deadline / self._slot_s) + 1
        entries = self._slots.get(slot)
        if entries is None:
            self._slots[slot] = {entry}
        else:
            entries.add(entry)
        if self._timer is None:
            self._wake_at_next_slot()

    def forget(self, entry: Expirable) -> None:
        slot = int(entry.deadline / self._slot_s) + 1
        if (entries := self._slots.get(slot)) is not None:
            entries.discard(entry)
            if not entries:
                del self._slots[slot]

    def _tick(self) -> None:
        now = int(self._clock.monotonic() / self._slot_s)
        try:
            for slot in [slot for slot in self._slots if slot <= now]:
                for entry in self._slots.pop(slot):
                    self._expire(entry)
        finally:
            self._timer = None
            if self._slots:
                self._wake_at_next_slot()

    def _expire(self, entry: Expirable) -> None:
        try:
            entry.expire()
        except Exception:  # one that can't end mustn't keep all others from it
            log.exception("a request couldn't be told that its time is over")

    def _wake_at_next_slot(self) -> None:
        # A little behind the boundary, so that neither rounding nor an early timer finds the slot not over yet.
        until = 1.02 * self._slot_s - self._clock.monotonic() % self._slot_s
        self._timer = asyncio.get_running_loop().call_later(until, self._tick)
