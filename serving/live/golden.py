"""How often replicas failed their golden self-test, as they count it for the metrics. A thin shell.

Not here: the test itself (``models.golden``), what follows from it (Ray Serve replaces the replica).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from serving.clock import Clock

READ_EVERY_S: Final = 5.0

Failures = Mapping[tuple[str, str], int]


class GoldenChecks:
    """``read`` looks into files, so it is asked in a thread, and not each second."""

    def __init__(self, read: Callable[[], Failures], *, clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._known: Failures = {}
        self._at = float("-inf")

    async def failed(self) -> Failures:
        """By model and version, since the system was started."""
        now = self._clock.monotonic()
        if now - self._at >= READ_EVERY_S:
            self._at = now
            self._known = await asyncio.to_thread(self._read)
        return self._known
