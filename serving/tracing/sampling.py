"""Which requests are traced: those whose caller traces them, and a share of those whose caller says nothing.

Not here: reading the headers (``serving.tracing.w3c``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from serving.clock import Clock
from serving.tracing.trace import Trace
from serving.tracing.w3c import TRACEPARENT, TRACESTATE, parse_traceparent


class ParentBased:
    """A ``serving.tracing.context.Sampler``. ``random_bits(n)`` gives an integer of so many random bits."""

    def __init__(
        self, ratio: float, *, clock: Clock, random: Callable[[], float], random_bits: Callable[[int], int]
    ) -> None:
        self._ratio = ratio
        self._clock = clock
        self._random = random
        self._bits = random_bits

    def begin(self, headers: Mapping[bytes, bytes]) -> Trace | None:
        raw = headers.get(TRACEPARENT)
        parent = None if raw is None else parse_traceparent(raw)
        if parent is None:
            if self._random() >= self._ratio:
                return None
            return Trace(self._id(128), self._id(64), parent=None, state=None, clock=self._clock)
        if not parent.sampled:
            return None
        state = headers.get(TRACESTATE)
        return Trace(parent.trace_id, self._id(64), parent=parent, state=state, clock=self._clock)

    def _id(self, bits: int) -> int:
        """Any but 0, which says that there is none."""
        return self._bits(bits) or 1
