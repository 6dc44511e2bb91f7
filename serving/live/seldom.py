"""What lies in files, and is read for who looks on: in a thread, and not each second. A thin shell."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from serving.clock import Clock

log = logging.getLogger("holdfast.live")

READ_EVERY_S: Final = 5.0

T = TypeVar("T")


class Seldom(Generic[T]):
    """``read`` may take its time. If it raises, what was read before stays, and the rest of the page is told."""

    def __init__(self, read: Callable[[], T], first: T, *, clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._known = first
        self._at = float("-inf")

    async def look(self) -> T:
        """What was read last; who comes while somebody reads is told what was known before."""
        now = self._clock.monotonic()
        if now - self._at >= READ_EVERY_S:
            self._at = now
            try:
                self._known = await asyncio.to_thread(self._read)
            except Exception:
                log.exception("what is shown of files can't be read, so the last that was known is shown")
        return self._known
