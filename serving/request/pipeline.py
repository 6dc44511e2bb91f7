"""The life of one inference request, from its bytes to the bytes of its answer, stage by stage.

Each stage is a line here and a file of its own. Not here: HTTP (``serving.ingress``), wire forms
(``serving.protocol``), how a version is asked (``serving.request.attempts``), what answers in its place
(``fallbacks``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from fallbacks.chain import Chain, Exhausted, Question
from models.inference import InferenceRequest, InferenceResponse, Tensors
from serving.clock import Clock
from serving.errors import (
    AttemptTimeout,
    BadQuality,
    DeadlineExceeded,
    Internal,
    InvalidAnswer,
    ModelFailed,
    NoAnswer,
    Overloaded,
    QueueTimeout,
    ReplicaLost,
    ReplicaUnavailable,
    RequestError,
)
from serving.protocol.decode import RequestDecoder
from serving.protocol.encode import EncodedBody, encode_infer
from serving.request.admission import Admission, Permit
from serving.request.attempts import Attempts, Exchange
from serving.request.canary import Throws
from serving.request.deadline import budget_s
from serving.request.failures import failure_of
from serving.request.inflate import inflate
from serving.request.lane import Lane
from serving.request.memory import Memory
from serving.request.priority import priority_of
from serving.request.quality import QualityGate
from serving.request.reading import Aside, read_now
from serving.request.sticky import sticky_key_of
from serving.tracing.context import RequestContext

_NO_PARAMETERS: Mapping[str, Any] = MappingProxyType({})

OK: Final = "ok"
DEGRADED: Final = "degraded"
CANCELLED: Final = "cancelled"
NO_VERSION: Final = ("", "")


class InferCall(NamedTuple):
    """An inference request as it arrived; five are headers of it, ``timeout`` in microseconds.

    ``content_encoding`` is None if ``body`` is the plain one, also when it has been inflated. ``context`` is what the
    request is known by, None of one that nobody will look for.
    """

    model: str
    version: str | None
    body: bytes | memoryview
    json_length: str | None = None
    timeout: str | None = None
    priority: str | None = None
    sticky_key: bytes | None = None
    context: RequestContext | None = None
    content_encoding: str | None = None


class ServedVersion(NamedTuple):
    """A version that this gateway can send requests to; ``name`` is ``model@version``."""

    model: str
    version: str
    name: str
    digest: str
    lane: Lane
    attempts: Attempts
    deterministic: bool = False


class Mirror(Protocol):
    """Hears of every good answer of a version, and neither waits nor raises."""

    def offer(self, served: ServedVersion, request: InferenceRequest, outputs: Tensors) -> None: ...


class Canary(NamedTuple):
    """A version that gets a part of the stable one's calls. ``alone``: it gets all of them."""

    served: ServedVersion
    throws: Throws
    alone: bool


class Plan(NamedTuple):
    """How calls for a model, or for one version of it, are answered here; times in seconds.

    ``served`` is None if no version of it can be asked now. A call that names a version is ``pinned``: it is answered
    by that version or not at all, so it has no ``chain``, no ``memory``, no ``mirrors`` and no ``canary``.
    """

    key: tuple[str, str]
    served: ServedVersion | None
    decoder: RequestDecoder
    timeout_s: float
    admission: Admission
    chain: Chain | None = None
    memory: Memory | None = None
    pinned: bool = False
    mirrors: tuple[Mirror, ...] = ()
    canary: Canary | None = None
    quality: QualityGate | None = None


class Router(Protocol):
    """Says how a call is answered; raises ``ModelNotFound``, and ``ReplicaUnavailable`` of what is still to come."""

    def route(self, model: str, version: str | None) -> Plan: ...


class Origin(NamedTuple):
    """What gave an answer that isn't the version's own, now.

    ``kind`` is ``version``, ``model``, ``cache`` or ``static``; ``reason`` the code of the error for which it is
    degraded, None for a cached answer that the settings call fresh; ``age_s`` and ``where`` only of cached ones.
    """

    kind: str
    reason: str | None
    age_s: float | None = None
    where: str | None = None


class Given(NamedTuple):
    """Outputs, who gave them (``model@version``, in two parts), and where they come from if not from there, now."""

    outputs: Tensors
    model: str
    version: str
    origin: Origin | None = None


class Recorder(Protocol):
    """Hears of every request exactly once, when it has ended. ``key`` is the model and version it was routed to."""

    def record(self, key: tuple[str, str], outcome: str, *, seconds: float, origin: Origin | None = None) -> None: ...


class Ended(NamedTuple):
    """All that is known of a request when it has ended, however it did.

    ``error`` is None of an answer, of a caller who went away, and of a defect of ours; ``exchange`` is None if no
    version was to be asked, ``request`` if the bytes weren't one, ``given`` if there is no answer. ``doubts`` says
    which of its inputs' values aren't as they should be, if any.
    """

    call: InferCall
    key: tuple[str, str]
    outcome: str
    seconds: float
    origin: Origin | None
    exchange: Exchange | None
    request: InferenceRequest | None
    given: Given | None
    error: RequestError | None
    request_id: str
    doubts: str = ""

    @property
    def went_well(self) -> bool:
        """Whether there is nothing to tell of it."""
        return _went_well(self.outcome, self.doubts, self.exchange)

    @property
    def trace_id(self) -> str:
        """In hexadecimal digits; empty if the request is in no trace."""
        return "" if self.call.context is None else self.call.context.trace_id


def _went_well(outcome: str, doubts: str, exchange: Exchange | None) -> bool:
    return outcome == OK and not doubts and (exchange is None or not exchange.failed)


Hear = Callable[[Ended], None]


class Observer(Protocol):
    """Hears of requests when they have ended, of each at most once, and of all there is to it.

    It is called on the way of the request: it never raises and never waits. Whoever keeps ``error`` keeps everything
    that was under way, by its traceback: take its ``code`` and its ``message``.
    """

    def ended(self, ended: Ended) -> None:
        """Of every request that didn't go well in every way."""

    def of_good(self, call: InferCall) -> Hear | None:
        """What wants to be told of this one, which did; None, as mostly, if nothing does."""


class Reply(NamedTuple):
    """An encoded answer, and who gave it."""

    body: EncodedBody
    given: Given


class Pipeline:
    """Answers inference calls with what it was given: a router, a recorder, a clock, perhaps an observer."""

    def __init__(
        self,
        router: Router,
        recorder: Recorder,
        *,
        clock: Clock,
        observer: Observer | None = None,
        body_max_bytes: int = 64 << 20,
    ) -> None:
        """``body_max_bytes`` bounds what a body is inflated to."""
        self._router = router
        self._body_max_bytes = body_max_bytes
        self._recorder = recorder
        self._monotonic = clock.monotonic
        self._observer = observer
        self._aside = Aside()

    async def infer(self, call: InferCall) -> Reply:
        """Raises a ``RequestError`` when there is no good answer."""
        arrived = self._monotonic()
        key, outcome, origin = NO_VERSION, Internal.code, None
        request = exchange = given = failure = None
        look = None
        context = call.context
        trace = None if context is None else context.trace
        try:
            plan = self._router.route(call.model, call.version)
            key = plan.key
            call = call if call.content_encoding is None else await self._inflated(call)
            request = read_now(plan.decoder, call.body, call.json_length, call.version) or await self._aside.read(
                plan.decoder, call.body, call.json_length, call.version
            )
            if context is not None and request.id:
                context.adopt(request.id)
            if trace is not None:
                trace.decoded()
            if plan.quality is not None:
                look = plan.quality.watch(request.inputs)
                if look.refused:
                    raise BadQuality(look.doubts())
            deadline = arrived + budget_s(request.parameters, call.timeout, default_s=plan.timeout_s)
            priority = priority_of(request.parameters, call.priority)
            sticky_key = sticky_key_of(request.parameters, call.sticky_key)
            given = fresh_from_memory(plan, request)
            if given is None:
                exchange = Exchange(
                    request, deadline, has_fallback=bool(plan.chain), sticky_key=sticky_key, trace=trace
                )
                permit = admit_now(plan, priority, deadline) or await admit_in_turn(plan, priority, deadline)
                given = await self._answer(plan, exchange, permit)
                if plan.canary is not None and given.origin is None:
                    key = given.model, given.version
            if trace is not None:
                trace.answered()
            body = encode_infer(_response(given, request), request)
            outcome = OK if (origin := given.origin) is None or origin.reason is None else DEGRADED
            return Reply(body, given)
        except RequestError as error:
            outcome, failure = error.code, error
            raise
        except asyncio.CancelledError:
            outcome = CANCELLED
            raise
        finally:
            seconds = self._monotonic() - arrived
            self._recorder.record(key, outcome, seconds=seconds, origin=origin)
            doubts = "" if look is None else look.doubts()
            if (hear := self._hear(call, outcome, doubts, exchange)) is not None:
                name = _name_of(context, request)
                hear(Ended(call, key, outcome, seconds, origin, exchange, request, given, failure, name, doubts))
            failure = None  # else the error would keep this frame, and this frame the error

    async def _inflated(self, call: InferCall) -> InferCall:
        body = await inflate(call.body, call.content_encoding or "", max_bytes=self._body_max_bytes)
        return call._replace(body=body, content_encoding=None)

    def _hear(self, call: InferCall, outcome: str, doubts: str, exchange: Exchange | None) -> Hear | None:
        """Who is told how the request ended, if anyone."""
        if self._observer is None:
            return None
        return self._observer.of_good(call) if _went_well(outcome, doubts, exchange) else self._observer.ended

    async def _answer(self, plan: Plan, exchange: Exchange, permit: Permit | Overloaded) -> Given:
        """Ask the version, and if it can't answer, what stands behind it. The permit is given back in any case."""
        if isinstance(permit, Overloaded):
            return await fall_back(plan, exchange, permit)
        exchange.since = self._monotonic()
        if exchange.trace is not None:
            exchange.trace.admitted()
        canary = plan.canary
        try:
            if canary is not None and (by_canary := await canary.throws.ask(exchange)) is not None:
                served, outputs = canary.served, by_canary
            else:  # the lot says so, or the canary couldn't answer, or there is none
                served, outputs = await self._ask(plan, exchange)
        except RequestError as error:
            took_s = self._monotonic() - exchange.since
            try:
                return await fall_back(plan, exchange, error)
            finally:
                if isinstance(error, _WORK_WAS_DONE):
                    permit.succeeded(took_s=took_s, waited_s=exchange.waited_s)
                elif isinstance(error, _TOO_MUCH) and (exchange.overdue or not isinstance(error, _TOO_LATE)):
                    permit.dropped()
        else:
            counts = canary is None or canary.alone or served is not canary.served
            took_s, waited_s = self._monotonic() - exchange.since, exchange.waited_s
            # A canary that is slow shall not make the limit smaller for those who don't meet it.
            permit.succeeded(took_s=took_s * counts, waited_s=waited_s * counts)
        finally:
            permit.ignored()  # has no effect on one that was given back already
        if plan.memory is not None and served.deterministic:
            plan.memory.remember(served.version, served.digest, exchange.request.inputs, outputs)
        for mirror in plan.mirrors:
            mirror.offer(served, exchange.request, outputs)
        return Given(outputs, served.model, served.version)

    async def _ask(self, plan: Plan, exchange: Exchange) -> tuple[ServedVersion, Tensors]:
        """The outputs of the plan's version, or, if it has left the table meanwhile, of the one that answers now."""
        served = plan.served
        try:
            if served is None:
                raise ReplicaUnavailable(f"no version of model '{plan.key[0]}' is served now")
            return served, await served.attempts.answer(exchange)
        except RequestError:
            served = self._moved(plan, exchange)
            if served is None:
                raise
            return served, await served.attempts.answer(exchange)

    def _moved(self, plan: Plan, exchange: Exchange) -> ServedVersion | None:
        """The version that answers now, if it isn't the one that did when the request came.

        So a version that leaves the table takes no request with it.
        """
        if plan.pinned or exchange.deadline <= self._monotonic():
            return None
        try:
            plan_now = self._router.route(plan.key[0], None)
        except RequestError:
            return None
        return None if plan_now.served is plan.served or plan_now.decoder is not plan.decoder else plan_now.served


def _name_of(context: RequestContext | None, request: InferenceRequest | None) -> str:
    """What the request is known by; empty if it gave itself no id and got none."""
    if context is not None:
        return context.request_id
    return "" if request is None else request.id or ""


def admit_now(plan: Plan, priority: int, deadline: float) -> Permit | Overloaded | None:
    """Leave to ask the version, why there is none, or None if it has to wait for it. Raises ``DeadlineExceeded``."""
    try:
        return plan.admission.try_admit(priority, deadline)
    except Overloaded as shed:
        return shed


async def admit_in_turn(plan: Plan, priority: int, deadline: float) -> Permit | Overloaded:
    """As ``admit_now``, after waiting for it."""
    try:
        return await plan.admission.admit(priority, deadline)
    except Overloaded as shed:
        return shed


_WORK_WAS_DONE: Final = (ModelFailed, InvalidAnswer)
"""To the limit a bad answer is an answer like any other."""

_TOO_LATE: Final = (DeadlineExceeded, AttemptTimeout)
_TOO_MUCH: Final = (*_TOO_LATE, QueueTimeout, ReplicaLost)
"""What may come of letting in more than can be served in time; not if only the caller was in a hurry."""


def fresh_from_memory(plan: Plan, request: InferenceRequest) -> Given | None:
    """A cached answer that the settings call as good as the model's own, if there is one."""
    if plan.memory is None or plan.served is None:
        return None
    hit = plan.memory.fresh(request.inputs, plan.served.digest)
    if hit is None:
        return None
    return Given(hit.outputs, hit.model, hit.version, Origin("cache", None, hit.age_s, hit.where))


async def fall_back(plan: Plan, exchange: Exchange, error: RequestError) -> Given:
    """What the model's chain answers; raises ``error`` if nothing may stand in for it, else ``NoAnswer``."""
    if not plan.chain or not failure_of(error).may_fall_back:
        raise error
    shed = isinstance(error, Overloaded)
    if exchange.trace is not None:
        exchange.trace.fell_back()
    try:
        question = Question(exchange.request, exchange.deadline, shed, exchange.suspect, exchange.trace)
        found = await plan.chain.answer(question)
    except Exhausted as exhausted:
        if shed:
            raise error from None  # with its word on when to come back
        raise NoAnswer(f"{error.told}; {exhausted}", retry_after_s=error.retry_after_s) from None
    return Given(found.outputs, found.model, found.version, Origin(found.kind, error.code, found.age_s, found.where))


def _response(given: Given, request: InferenceRequest) -> InferenceResponse:
    parameters = _NO_PARAMETERS if given.origin is None else _parameters(given.origin)
    return InferenceResponse(given.model, given.version, given.outputs, request.id, parameters)


def _parameters(origin: Origin) -> dict[str, Any]:
    """What the body says of an answer that isn't the version's own: the headers say the same."""
    parameters: dict[str, Any] = {}
    if origin.reason is not None:
        parameters["degraded"] = origin.kind
        parameters["degraded_reason"] = origin.reason
    if origin.age_s is not None:
        parameters["cached"] = True
        parameters["age_s"] = round(origin.age_s, 3)
    return parameters
