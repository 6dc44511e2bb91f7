"""The HTTP face of every error: its status, its headers, its body. The only place with status codes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from serving import errors

Header = tuple[bytes, bytes]

STATUS: Final[Mapping[type[errors.RequestError], int]] = MappingProxyType(
    {
        errors.InvalidRequest: 400,
        errors.NotAuthorized: 401,
        errors.ForeignOrigin: 403,
        errors.UnknownRoute: 404,
        errors.ModelNotFound: 404,
        errors.RolloutNotFound: 404,
        errors.IncidentNotFound: 404,
        errors.MethodNotAllowed: 405,
        errors.PayloadTooLarge: 413,
        errors.UnsupportedEncoding: 415,
        errors.BadQuality: 422,
        errors.Overloaded: 429,
        errors.LoadFailed: 409,
        errors.RolloutRefused: 409,
        errors.BreakerNotOpen: 409,
        errors.Internal: 500,
        errors.ModelFailed: 500,
        errors.InvalidAnswer: 500,
        errors.ReplicaUnavailable: 503,
        errors.ReplicaLost: 503,
        errors.CircuitOpen: 503,
        errors.NoAnswer: 503,
        errors.RolloutsUnavailable: 503,
        errors.IncidentsUnavailable: 503,
        errors.DeadlineExceeded: 504,
        errors.AttemptTimeout: 504,
        errors.QueueTimeout: 504,
    }
)
"""One row for each concrete class of ``serving.errors``."""

_MAY_PASS: Final = (429, 503)
_INTERNAL_TEXT: Final = "internal error; the server's log has the details"
_JSON: Final[Header] = (b"content-type", b"application/json")


class ErrorResponse(NamedTuple):
    """``headers`` are as ASGI wants them: lower-case names, bytes. No content length."""

    status: int
    headers: list[Header]
    body: bytes


def status_of(exc: BaseException) -> int:
    """The status of an error: its own class's row, else that of its nearest base, else 500."""
    for cls in type(exc).__mro__:
        if cls in STATUS:
            return STATUS[cls]
    return 500


def error_response(exc: BaseException) -> ErrorResponse:
    """What the caller is told. A defect of ours, or an exception of anyone else's, shows nothing of itself."""
    headers = [_JSON]
    if isinstance(exc, errors.MethodNotAllowed):
        headers.append((b"allow", exc.allow.encode()))
    if isinstance(exc, errors.NotAuthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(exc, errors.RequestError) and status_of(exc) in _MAY_PASS:
        headers.append((b"retry-after", str(max(1, math.ceil(exc.retry_after_s))).encode()))
    shown = isinstance(exc, errors.RequestError) and not isinstance(exc, errors.Internal)
    text = exc.message if shown and isinstance(exc, errors.RequestError) else _INTERNAL_TEXT
    return ErrorResponse(status_of(exc), headers, error_body(text))


def error_body(text: str) -> bytes:
    """``{"error": text}``. Half a surrogate pair, which JSON in UTF-8 can't carry, is written escaped."""
    return json.dumps({"error": text}, separators=(",", ":"), ensure_ascii=False).encode(errors="backslashreplace")
