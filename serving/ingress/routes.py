"""From a path and a method to an answer: every endpoint of the Open Inference Protocol, and what tells of a gateway.

Nothing here changes the system or asks beyond this gateway: whatever does is behind a ``Door``, which knows who may.
Not here: the life of an inference request (``serving.request.pipeline``), bodies (``serving.protocol``), sockets.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, NamedTuple, Protocol

from serving.errors import MethodNotAllowed, RequestError, UnknownRoute
from serving.ingress.http import JSON_TYPE, Header, HttpRequest, HttpResponse, Response
from serving.ingress.information import Information
from serving.log_lines import fields
from serving.protocol.compression import compress
from serving.protocol.status import error_response
from serving.request.deadline import TIMEOUT_HEADER
from serving.request.pipeline import Given, InferCall, Origin, Pipeline
from serving.request.priority import PRIORITY_HEADER
from serving.request.sticky import STICKY_HEADER
from serving.tracing.context import RequestContext, RequestContexts

log = logging.getLogger("holdfast.http")

COMPRESSED_AT_ONCE_MAX_BYTES: Final = 64 << 10
"""A larger answer is compressed in a thread: it takes a millisecond for each 64 KiB, and others wait."""

_PATHS_MAX: Final = 1024
REMEMBERED_MAX_CHARACTERS: Final = 256
_BINARY_TYPE: Final = (b"content-type", b"application/octet-stream")
_LENGTH: Final = b"inference-header-content-length"
_TIMEOUT: Final = TIMEOUT_HEADER.encode()
_PRIORITY: Final = PRIORITY_HEADER.encode()
_STICKY: Final = STICKY_HEADER.encode()
_VERSION: Final = b"holdfast-version"
_DEGRADED: Final = b"holdfast-degraded"
_DEGRADED_REASON: Final = b"holdfast-degraded-reason"


class Target(NamedTuple):
    """Where a path leads. ``allow`` are the methods that it takes."""

    endpoint: str
    allow: tuple[str, ...]
    model: str = ""
    version: str | None = None


class Door(Protocol):
    """Endpoints that lead beyond this gateway, and whoever guards them."""

    @property
    def endpoints(self) -> Collection[str]:
        """Names that its targets may have; none of ours."""
        ...

    def find(self, path: str) -> Target | None: ...

    async def answer(self, request: HttpRequest, target: Target) -> Response:
        """May raise any ``RequestError``."""
        ...


INFER: Final = "infer"
GET: Final = ("GET", "HEAD")
POST: Final = ("POST",)

_FIXED: Final[dict[str, Target]] = {
    "/v2": Target("server", GET),
    "/v2/health/live": Target("live", GET),
    "/v2/health/ready": Target("ready", GET),
    "/v2/models": Target("models", GET),
    "/v2/models/stats": Target("stats", GET),
    "/v2/repository/index": Target("index", POST),
    "/v2/holdfast/accepting": Target("accepting", GET),
    "/v2/holdfast/replicas": Target("replicas", GET),
    "/v2/holdfast/status": Target("status", GET),
    "/metrics": Target("metrics", GET),
}
_OF_MODEL: Final[dict[tuple[str, ...], tuple[str, tuple[str, ...]]]] = {
    (): ("model", GET),
    ("ready",): ("model_ready", GET),
    ("config",): ("config", GET),
    ("stats",): ("stats", GET),
    ("infer",): (INFER, POST),
}


def find_target(path: str) -> Target:
    """Raises ``UnknownRoute``."""
    if (fixed := _FIXED.get(path)) is not None:
        return fixed
    parts = path.split("/")
    if parts[:3] == ["", "v2", "models"] and len(parts) > 3 and parts[3]:
        model, rest, version = parts[3], parts[4:], None
        if rest[:1] == ["versions"] and len(rest) > 1 and rest[1]:
            version, rest = rest[1], rest[2:]
        if (found := _OF_MODEL.get(tuple(rest))) is not None:
            return Target(found[0], found[1], model, version)
    raise UnknownRoute(f"no such path: {path[:200]}")


class Routes:
    """Answers whole HTTP requests. Never raises but for cancellation."""

    def __init__(
        self,
        pipeline: Pipeline,
        information: Information,
        doors: Sequence[Door] = (),
        *,
        contexts: RequestContexts,
    ) -> None:
        self._pipeline = pipeline
        self._contexts = contexts
        self._information = information
        self._doors = tuple(doors)
        self._targets: dict[str, Target] = {}
        self._version_headers: dict[tuple[str, str], Header] = {}
        self._endpoints: dict[str, Callable[[HttpRequest, Target], Awaitable[Response]]] = {}
        for door in self._doors:
            self._endpoints.update(dict.fromkeys(door.endpoints, door.answer))

    async def answer(self, request: HttpRequest) -> Response:
        response: Response
        context: RequestContext | None = None
        try:
            target = self._targets.get(request.path) or self._find(request.path)
            if target.endpoint == INFER:
                context = self._contexts.begin(request.headers)
            if request.method not in target.allow:
                allow = ", ".join(target.allow)
                raise MethodNotAllowed(f"{request.path[:200]} takes {allow}, not {request.method[:16]}", allow=allow)
            if context is not None:
                response = await self._infer(request, target, context)
            else:
                response = await self._endpoints.get(target.endpoint, self._inform)(request, target)
        except RequestError as error:
            if error.code == "internal":
                log.error("%s %s: %s", request.method, request.path, error.message, extra=_fields(context))
            response = HttpResponse(*error_response(error))
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path, extra=_fields(context))
            response = HttpResponse(*error_response(error))
        if context is not None:
            response.headers.extend(context.headers())
        return response

    def _find(self, path: str) -> Target:
        beyond = (found for door in self._doors if (found := door.find(path)) is not None)
        target = next(beyond, None) or find_target(path)
        if len(path) > REMEMBERED_MAX_CHARACTERS:
            return target
        if len(self._targets) >= _PATHS_MAX:
            self._targets.clear()
        self._targets[path] = target
        return target

    async def _infer(self, request: HttpRequest, target: Target, context: RequestContext) -> HttpResponse:
        headers = request.headers
        length, encoding = headers.get(_LENGTH), headers.get(b"content-encoding")
        timeout, priority = headers.get(_TIMEOUT), headers.get(_PRIORITY)
        reply = await self._pipeline.infer(
            InferCall(
                target.model,
                target.version,
                request.body,
                None if length is None else length.decode("latin-1"),
                None if timeout is None else timeout.decode("latin-1"),
                None if priority is None else priority.decode("latin-1"),
                headers.get(_STICKY),
                context,
                None if encoding is None else encoding.decode("latin-1"),
            )
        )
        encoded, json_length = reply.body
        given = reply.given
        response_headers = [self._version_header(given)]
        if given.origin is not None:
            response_headers += origin_headers(given.origin)
        if json_length is None:
            response_headers.append(JSON_TYPE)
        else:
            response_headers.append(_BINARY_TYPE)
            response_headers.append((_LENGTH, b"%d" % json_length))
        if (accepted := headers.get(b"accept-encoding")) is not None:
            if len(encoded) <= COMPRESSED_AT_ONCE_MAX_BYTES:
                encoded, chosen = compress(encoded, accepted.decode("latin-1"))
            else:
                encoded, chosen = await asyncio.to_thread(compress, encoded, accepted.decode("latin-1"))
            if chosen is not None:
                response_headers.append((b"content-encoding", chosen.encode()))
        return HttpResponse(200, response_headers, encoded)

    def _version_header(self, given: Given) -> Header:
        key = (given.model, given.version)
        header = self._version_headers.get(key)
        if header is None:
            if len(self._version_headers) >= _PATHS_MAX:
                self._version_headers.clear()
            header = self._version_headers[key] = (_VERSION, f"{given.model}@{given.version}".encode())
        return header

    async def _inform(self, request: HttpRequest, target: Target) -> HttpResponse:
        return await self._information.answer(target.endpoint, target.model, target.version, request.body)


def origin_headers(origin: Origin) -> list[Header]:
    """What tells an answer that isn't the version's own, now; ``Cache-Status`` as RFC 9211 has it."""
    headers: list[Header] = []
    if origin.reason is not None:
        headers += [(_DEGRADED, origin.kind.encode()), (_DEGRADED_REASON, origin.reason.encode())]
    if origin.age_s is not None:
        headers.append((b"age", b"%d" % int(origin.age_s)))
        headers.append((b"cache-status", f"holdfast; hit; detail={origin.where or 'node'}".encode()))
    return headers


def _fields(context: RequestContext | None) -> dict[str, dict[str, object]]:
    return {} if context is None else fields(request_id=context.request_id, trace_id=context.trace_id)
