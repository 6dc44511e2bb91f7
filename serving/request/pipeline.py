"""The life of one inference request, from its bytes to the bytes of its answer, stage by stage.

Each stage is a line here and a file of its own. Not here: HTTP (``serving.ingress``), wire forms
(``serving.protocol``), what serves a version (``serving.request.lane``). Admission goes before the route, breaker
and retry around the attempt, fallback behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from models.inference import InferenceRequest, InferenceResponse, Tensors
from serving.clock import Clock
from serving.errors import Internal, RequestError
from serving.protocol.decode import RequestDecoder
from serving.protocol.encode import EncodedBody, encode_infer
from serving.request.deadline import budget_s
from serving.request.lane import Lane

_NO_PARAMETERS: Mapping[str, Any] = MappingProxyType({})

OK = "ok"
CANCELLED = "cancelled"


class InferCall(NamedTuple):
    """An inference request as it arrived. ``timeout`` is its deadline header, in microseconds."""

    model: str
    version: str | None
    body: bytes | memoryview
    json_length: int | None = None
    timeout: str | None = None


class ServedVersion(NamedTuple):
    """A version that this gateway can send requests to; ``name`` is ``model@version``."""

    model: str
    version: str
    name: str
    decoder: RequestDecoder
    lane: Lane
    timeout_s: float


class Router(Protocol):
    """Says which version answers a call; raises ``ModelNotFound``."""

    def route(self, model: str, version: str | None) -> ServedVersion: ...


class Recorder(Protocol):
    """Hears of every request exactly once, when it has ended."""

    def record(self, served: ServedVersion | None, outcome: str, *, seconds: float) -> None: ...


class Reply(NamedTuple):
    """An encoded answer, and the version that gave it."""

    body: EncodedBody
    served: ServedVersion


class Pipeline:
    """Answers inference calls with what it was given: a router, a recorder, a clock."""

    def __init__(self, router: Router, recorder: Recorder, *, clock: Clock) -> None:
        self._router = router
        self._recorder = recorder
        self._monotonic = clock.monotonic

    async def infer(self, call: InferCall) -> Reply:
        """Raises a ``RequestError`` when there is no good answer."""
        arrived = self._monotonic()
        served: ServedVersion | None = None
        outcome = Internal.code
        try:
            served = self._router.route(call.model, call.version)
            request = served.decoder.decode(call.body, json_length=call.json_length, version=call.version)
            deadline = arrived + budget_s(request.parameters, call.timeout, default_s=served.timeout_s)
            outputs = await attempt(served.lane, request, deadline)
            body = encode_infer(_response(served, request, outputs), request)
            outcome = OK
            return Reply(body, served)
        except RequestError as error:
            outcome = error.code
            raise
        except asyncio.CancelledError:
            outcome = CANCELLED
            raise
        finally:
            self._recorder.record(served, outcome, seconds=self._monotonic() - arrived)


async def attempt(lane: Lane, request: InferenceRequest, deadline: float) -> Tensors:
    """One try at one version. When the caller goes away, so does the work."""
    pending = lane.submit(request, deadline)
    try:
        return await pending.answer
    except asyncio.CancelledError:
        lane.abandon(pending)
        raise


def _response(served: ServedVersion, request: InferenceRequest, outputs: Tensors) -> InferenceResponse:
    return InferenceResponse(served.model, served.version, outputs, request.id, _NO_PARAMETERS)
