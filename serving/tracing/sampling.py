"""Which requests are traced: those whose caller traces them, and a share of those whose caller says nothing.

Of both together only so many a second. Not here: reading the headers (``serving.tracing.w3c``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from serving.clock import Clock
from serving.tracing.rates import LineRates
from serving.tracing.trace import Trace
from serving.tracing.w3c import TRACEPARENT, TRACESTATE, parse_traceparent


class ParentBased:
    """A ``serving.tracing.context.Sampler``. ``random_bits(n)`` gives an integer of so many random bits.

    ``one_too_many`` hears of a request that isn't traced because ``max_per_s`` were.
    """

    def __init__(
        self,
        ratio: float,
        *,
        max_per_s: float,
        one_too_many: Callable[[], None],
        clock: Clock,
        random: Callable[[], float],
        random_bits: Callable[[int], int],
    ) -> None:
        self._ratio = ratio
        self._rates = LineRates(per_s=max_per_s, burst=max(1, round(max_per_s)))
        self._one_too_many = one_too_many
        self._clock = clock
        self._random = random
        self._bits = random_bits

    def begin(self, headers: Mapping[bytes, bytes]) -> Trace | None:
        raw = headers.get(TRACEPARENT)
        parent = None if raw is None else parse_traceparent(raw)
        if parent is None:
            if self._random() >= self._ratio or not self._affordable():
                return None
            return Trace(self._id(128), self._id(64), parent=None, state=None, clock=self._clock)
        if not parent.sampled or not self._affordable():
            return None
        state = headers.get(TRACESTATE)
        return Trace(parent.trace_id, self._id(64), parent=parent, state=state, clock=self._clock)

    def _affordable(self) -> bool:
        if self._rates.take(None, self._clock.monotonic()) is not None:
            return True
        self._one_too_many()
        return False

    def _id(self, bits: int) -> int:
        """Any but 0, which says that there is none."""
        return self._bits(bits) or 1
