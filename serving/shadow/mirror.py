"""A mirror: a share of what a model is asked is asked of a shadow, too, after the answer has left.

The request pays for a look at the dice and, if it is chosen, for a place in a queue. All else happens in later turns of
the loop: what is kept is bounded in number and bytes, what doesn't fit is dropped and counted, and nothing is awaited.
Mirrored requests go straight to the shadow's lane, so no admission, breaker or budget hears of them. Not here: when
two answers agree (``serving.shadow.compare``), and which mirrors there are (``serving.shadow.mirrors``).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from fallbacks.stand_in import stand_in_fault
from models.inference import InferenceRequest, Tensors
from models.manifest import Manifest
from models.signature import Signature
from serving.clock import Clock
from serving.errors import InvalidAnswer, RequestError
from serving.held import kept
from serving.shadow.compare import Comparison, Rule, compare, rule_fault
from serving.shadow.counts import MirrorCounts, Silence, Tally

if TYPE_CHECKING:
    from serving.request.lane import Lane, Pending
    from serving.request.pipeline import ServedVersion

log = logging.getLogger("holdfast.shadow")

OVERHEAD_BYTES: Final = 1024
"""What a mirrored request takes beside its tensors."""
LARGE_BYTES: Final = 1 << 18
"""Answers to requests that hold more than this are compared in a thread: the loop has others to serve."""


@dataclass(frozen=True, slots=True)
class MirrorLimits:
    """Times in seconds; see ``ShadowSettings``."""

    timeout_s: float = 1.0
    concurrency: int = 8
    queue_max: int = 256
    queue_max_bytes: int = 8 << 20
    silent_after_s: float = 30.0


class Target(Protocol):
    """A version that is served here."""

    @property
    def served(self) -> ServedVersion: ...

    @property
    def manifest(self) -> Manifest: ...


class Question:
    """One request that the shadow is asked, and the model's answer to it."""

    __slots__ = ("_mirror", "inputs", "outputs", "pending", "rows", "size_bytes")

    def __init__(self, mirror: Mirror, inputs: Tensors, outputs: Tensors, rows: int, size_bytes: int) -> None:
        self._mirror = mirror
        self.inputs = inputs
        self.outputs = outputs
        self.rows = rows
        self.size_bytes = size_bytes
        self.pending: Pending | None = None

    def answered(self, answer: asyncio.Future[Tensors]) -> None:
        self._mirror.answered(self, answer)

    def compared(self, comparison: asyncio.Future[Comparison | None]) -> None:
        self._mirror.compared(self, None if comparison.cancelled() else comparison.result())


class Mirror:
    """From one model to one shadow, in one gateway. Nothing here waits, and nothing raises."""

    def __init__(
        self,
        model: str,
        shadow: str,
        *,
        limits: MirrorLimits,
        find: Callable[[], Target | None],
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self.model = model
        self.shadow = shadow
        self.tally = Tally()
        self.held_bytes = 0
        self._limits = limits
        self._find = find
        self._monotonic = clock.monotonic
        self._random = random
        self._share = 0.0
        self._rule: Rule | None = None
        self._signature: Signature | None = None
        self._target: Target | None = None
        self._fault: str | None = None
        self._fresh: list[tuple[InferenceRequest, Tensors]] = []
        self._queue: deque[Question] = deque()
        self._asked: dict[Question, None] = {}
        self._silence = Silence(limits.silent_after_s, now=clock.monotonic())

    # Its life

    def use(self, *, share: float, rule: Rule, signature: Signature) -> None:
        """Mirror this share from now on; ``signature`` is the model's, by which its callers ask."""
        if not self._share:
            self._silence.begin(self.tally, now=self._monotonic())
        self._share, self._rule, self._signature, self._target = share, rule, signature, None

    def stop(self) -> None:
        """Mirror nothing any more, and take back what the shadow was asked."""
        self._share = 0.0
        self._silence.begin(self.tally, now=self._monotonic())
        self.tally.dropped["stopped"] += len(self._fresh) + len(self._queue)
        self._fresh.clear()
        self._queue.clear()
        asked, self._asked = self._asked, {}
        self.held_bytes = 0
        for question in asked:
            self.tally.cancelled += 1
            if (pending := question.pending) is not None and pending.answer.cancel():
                pending.lane.abandon(pending)

    # What it says of itself

    @property
    def share(self) -> float:
        """0 while it is stopped."""
        return self._share

    @property
    def waiting(self) -> int:
        return len(self._fresh) + len(self._queue)

    @property
    def under_way(self) -> int:
        return len(self._asked)

    @property
    def silent(self) -> bool:
        return self._silence.silent

    def counts(self) -> MirrorCounts:
        return self.tally.counts(self.model, self.shadow)

    def look(self) -> None:
        """Notice if it should see traffic and sees none. To be called now and then."""
        if not self._share or not self._silence.look(self.tally, share=self._share, now=self._monotonic()):
            return
        tally = self.tally
        if self.silent:
            log.warning(
                "the shadow %s of %s answers nothing, though %d requests were mirrored so far: dropped %s, failed %s",
                *(self.shadow, self.model, tally.mirrored, dict(tally.dropped), dict(tally.failed)),
            )
        else:
            log.warning("the shadow %s of %s answers again", self.shadow, self.model)

    # On the way of a request

    def offer(self, served: ServedVersion, request: InferenceRequest, outputs: Tensors) -> None:
        """A version has given a good answer, which is about to leave."""
        if served.name == self.shadow:
            return
        tally = self.tally
        tally.answered += 1
        if self._random() >= self._share:
            return
        fresh = self._fresh
        if len(fresh) + len(self._queue) >= self._limits.queue_max:
            tally.dropped["queue_full"] += 1
            return
        fresh.append((request, outputs))
        if len(fresh) == 1:
            asyncio.get_running_loop().call_soon(self._take)

    # After it

    def _take(self) -> None:
        """Keep what was offered in the last turn, without what it is a view of, and ask."""
        fresh, self._fresh = self._fresh, []
        for request, outputs in fresh:
            try:
                self._keep(request, outputs)
            except Exception:
                log.exception("a request couldn't be mirrored")
                self.tally.dropped["internal"] += 1
        self._pump()

    def _keep(self, request: InferenceRequest, outputs: Tensors) -> None:
        inputs, in_bytes = kept(request.inputs)
        outputs, out_bytes = kept(outputs)
        size = in_bytes + out_bytes + OVERHEAD_BYTES
        if self.held_bytes + size > self._limits.queue_max_bytes:
            self.tally.dropped["queue_full"] += 1
            return
        self.held_bytes += size
        self._queue.append(Question(self, inputs, outputs, request.rows, size))

    def _pump(self) -> None:
        while self._queue and len(self._asked) < self._limits.concurrency:
            question = self._queue.popleft()
            try:
                reason = self._ask(question)
            except Exception:
                log.exception("the shadow %s couldn't be asked", self.shadow)
                reason = "internal"
            if reason is not None:
                self.tally.dropped[reason] += 1
            if question not in self._asked:
                self.held_bytes -= question.size_bytes

    def _ask(self, question: Question) -> str | None:
        """Why the shadow can't be asked, or None if it was."""
        target = self._find()
        if target is None or (signature := self._signature) is None:
            return "not_served"
        if target is not self._target:
            self._judge(target, signature)
        if self._fault is not None:
            return "not_comparable"
        lane = target.served.lane
        if self._others_wait(lane):
            return "busy"
        self.tally.mirrored += 1
        request = InferenceRequest(target.served.model, question.inputs, question.rows)
        try:
            pending = lane.submit(request, self._monotonic() + self._limits.timeout_s)
        except RequestError as error:
            self.tally.failed[error.code] += 1
            return None
        question.pending = pending
        self._asked[question] = None
        pending.answer.add_done_callback(question.answered)
        return None

    def _judge(self, target: Target, signature: Signature) -> None:
        """Whether the shadow, which is another one than before, can be compared with the model at all."""
        self._target = target
        fault = stand_in_fault(signature, target.manifest.signature)
        if fault is None and self._rule is not None:
            fault = rule_fault(self._rule, signature)
        self._fault = fault
        if fault is not None:
            log.error("nothing of %s is mirrored to %s: %s", self.model, self.shadow, fault)

    def _others_wait(self, lane: Lane) -> bool:
        """Whether the shadow has requests waiting that somebody wants to be answered."""
        waiting = lane.waiting
        if waiting:
            waiting -= sum(question.pending is not None and not question.pending.sent for question in self._asked)
        return waiting + lane.waiting_elsewhere() > 0

    def answered(self, question: Question, answer: asyncio.Future[Tensors]) -> None:
        """The shadow has answered, or has failed to."""
        error = None if answer.cancelled() else answer.exception()
        if question not in self._asked:  # the mirror has been stopped meanwhile
            return
        if answer.cancelled():
            self.tally.cancelled += 1
        elif isinstance(error, InvalidAnswer):
            self.tally.compared(Comparison(question.rows, 0, math.inf, "form", error.message), reason=error.code)
        elif error is not None:
            self.tally.failed[error.code if isinstance(error, RequestError) else "internal"] += 1
        elif question.size_bytes > LARGE_BYTES:
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, self._compare, question, answer.result()).add_done_callback(question.compared)
            return
        else:
            self.compared(question, self._compare(question, answer.result()))
            return
        self._done(question)

    def _compare(self, question: Question, outputs: Tensors) -> Comparison | None:
        """None if that is a defect of ours."""
        rule, signature = self._rule, self._signature
        if rule is None or signature is None:
            return None
        try:
            return compare(question.outputs, outputs, rule, rows=question.rows, batched=signature.batched)
        except Exception:
            log.exception("answers of %s and %s can't be compared", self.model, self.shadow)
            return None

    def compared(self, question: Question, found: Comparison | None) -> None:
        """The shadow's answer has been looked at."""
        if question not in self._asked:
            return
        if found is None:
            self.tally.failed["internal"] += 1
        else:
            self.tally.compared(found)
        self._done(question)

    def _done(self, question: Question) -> None:
        del self._asked[question]
        self.held_bytes -= question.size_bytes
        self._pump()
