"""Requests of a model with a canary on their whole way, traced, and what their spans come to."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import count

from fallbacks.chain import Chain, Strategy
from serving.errors import RequestError
from serving.request.pipeline import InferCall, Pipeline, Reply
from serving.tracing.context import RequestContexts
from serving.tracing.sampling import ParentBased
from serving.tracing.spans import Finished, Span, finished, spans_of
from tests.fakes import FakeClock
from tests.unit.serving.request.test_canary import Rig
from tests.unit.serving.request.test_pipeline import Seen, call

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
PARENT_ID = 0xB7AD6B7169203331
ROOT_ID = 1


def contexts(clock: FakeClock, *, ratio: float = 0.0) -> RequestContexts:
    """Every context has the same ids: one trace of one request is looked at."""
    sampler = ParentBased(
        ratio, max_per_s=1000, one_too_many=lambda: None, clock=clock, random=lambda: 0.5, random_bits=lambda _: ROOT_ID
    )
    return RequestContexts("gw", sampler)


class Traced:
    """A rig whose requests are traced: ``m@v1`` is stable, ``m@v2`` a canary that gets requests at chance 0."""

    def __init__(
        self, clock: FakeClock, *strategies: Strategy, canary: bool = False, retries: int = 1, ratio: float = 0.0
    ) -> None:
        self.clock = clock
        self.rig = Rig(clock, retries=retries)
        if not canary:
            self.rig.plan = self.rig.plan._replace(canary=None)
        self.fall_back_to(*strategies)
        self.quotable = True
        self._contexts = contexts(clock, ratio=ratio)
        self.seen = Seen()
        self._pipeline = Pipeline(self.rig, self.rig.records, clock=clock, observer=self.seen)

    def fall_back_to(self, *strategies: Strategy) -> None:
        self.rig.plan = self.rig.plan._replace(chain=Chain(strategies))

    async def ask(self, asked: InferCall | None = None, headers: dict[bytes, bytes] | None = None) -> Reply | None:
        """None if it fails."""
        context = self._contexts.begin({b"traceparent": PARENT} if headers is None else headers)
        with contextlib.suppress(RequestError):
            return await self._pipeline.infer((asked or call())._replace(context=context))
        return None

    @property
    def finished(self) -> Finished:
        """The only request, once it has ended. No time has passed since."""
        (ended,) = self.seen.all
        assert ended.call.context is not None
        trace = ended.call.context.trace
        assert trace is not None
        return finished(ended, trace, now=self.clock.now, rollout="m-1", quotable=lambda _model: self.quotable)

    def spans(self) -> list[Span]:
        """Its spans; their ids are counted."""
        return spans_of(self.finished, count(2).__next__)


def tree(spans: Sequence[Span]) -> list[str]:
    """Span by span: its name and, of an attempt, its version and outcome, under its parent."""
    lines: list[str] = []

    def add(span: Span, depth: int) -> None:
        known = span.attributes
        about = f" {known['holdfast.version']} {known['holdfast.outcome']}" if span.name == "attempt" else ""
        lines.append(f"{'  ' * depth}{span.name}{about}")
        for child in spans:
            if child.parent_id == span.span_id:
                add(child, depth + 1)

    add(spans[0], 0)
    assert len(lines) == len(spans), "a span has no parent"
    return lines
