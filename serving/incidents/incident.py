"""What is kept of a request that went wrong, and what counts as one. Pure.

Of what a caller sent, the inputs are kept, and no header and no parameter: a stickiness key may name a person. Not
here: which are kept when there are many (``serving.incidents.keeper``), and where (``serving.incidents.store``).
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import msgspec
import numpy as np

from models.inference import DATATYPES, Array, Shape, Tensor, Tensors, element_count, pack_bytes, unpack_bytes
from serving.errors import BadQuality, CallerError, Overloaded
from serving.request.attempts import FailedAttempt
from serving.request.pipeline import CANCELLED, DEGRADED, OK, Ended

TEXT_MAX: Final = 2000
"""Characters of an error's text that are kept: a model may put a whole tensor into its text."""
ATTEMPTS_MAX: Final = 20
NAME_MAX: Final = 128

TOO_LARGE: Final = "size"
REDACTED: Final = "redacted"


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that failed. ``failure`` is a code of ``serving.errors``."""

    version: str
    replica: str
    failure: str
    fault: str
    seconds: float


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """An incident without tensors.

    ``outcome`` is what the caller got, as the metrics say it: the code of an error, ``degraded`` or ``ok``.
    ``failure`` is what went wrong: the code of what failed in the end, of what made the answer degraded, of a canary's
    failure of which the caller saw nothing, or ``input_quality``. ``version`` is the one that it went wrong with.
    """

    wall: float
    model: str
    version: str
    outcome: str
    failure: str
    fault: str
    request_id: str
    seconds: float
    waited_s: float
    attempts: tuple[Attempt, ...]
    answered_by: str
    """Who gave the answer, if anyone did: ``model@version``."""
    rollout: str
    """The rollout that was on, if one was."""
    trace_id: str = ""
    """The trace that the request was in, if it was in one."""


class KeptTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor. ``raw`` is its wire form, None if it was ``left_out``: for its size, with a hash, or as private."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | None = None
    sha256: str = ""
    left_out: str = ""


class KeptBody(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of a request that couldn't be read. ``raw`` as of a ``KeptTensor``."""

    size_bytes: int
    json_length: int | None = None
    raw: bytes | None = None
    sha256: str = ""
    left_out: str = ""


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked and answered. ``outputs`` are what the caller got, or of an invalid answer what the model gave."""

    inputs: tuple[KeptTensor, ...] = ()
    outputs: tuple[KeptTensor, ...] = ()
    body: KeptBody | None = None


class IncidentLine(Facts, frozen=True, kw_only=True):
    """An incident in a list."""

    id: int


class IncidentReport(IncidentLine, frozen=True, kw_only=True):
    """All of an incident. In JSON, ``raw`` is in base64."""

    inputs: tuple[KeptTensor, ...]
    outputs: tuple[KeptTensor, ...]
    body: KeptBody | None


class IncidentPage(msgspec.Struct, frozen=True, kw_only=True):
    """Incidents, the newest first. ``next`` is the ``before`` of the next page, None at the end."""

    incidents: tuple[IncidentLine, ...]
    next: int | None
    kept: int
    bytes: int


def failure_in(ended: Ended) -> str | None:
    """The failure that makes this an incident, None if it is none: it went well, or the caller went away."""
    if ended.outcome == CANCELLED:
        return None
    if ended.outcome == OK:
        rescued = failed_canary(ended)
        return rescued.code if rescued is not None else BadQuality.code if ended.doubts else None
    if ended.outcome == DEGRADED and ended.origin is not None:
        return ended.origin.reason
    last = last_failed(ended)
    return last.code if last is not None else ended.outcome


def failed_canary(ended: Ended) -> FailedAttempt | None:
    """The canary's failed attempt, if another version has answered in its place."""
    if ended.exchange is None or ended.given is None or ended.outcome != OK:
        return None
    answered = f"{ended.given.model}@{ended.given.version}"
    return next((attempt for attempt in ended.exchange.failed if attempt.version != answered), None)


def last_failed(ended: Ended) -> FailedAttempt | None:
    failed = () if ended.exchange is None else ended.exchange.failed
    return failed[-1] if failed else None


def is_callers_own(ended: Ended) -> bool:
    """Whether only the caller could have done better; what is refused for its values may say something of the model."""
    return isinstance(ended.error, CallerError) and not isinstance(ended.error, BadQuality)


def is_shed(failure: str) -> bool:
    return failure == Overloaded.code


def facts_of(ended: Ended, failure: str, *, wall: float, rollout: str, quoting: bool) -> Facts:
    """``quoting``: whether texts may be kept that show values of the inputs."""
    model, version = ended.key
    canary = failed_canary(ended)
    if canary is not None:
        version = canary.version.partition("@")[2]
    exchange, given = ended.exchange, ended.given
    attempts = () if exchange is None else exchange.failed[-ATTEMPTS_MAX:]
    fault, quotes = _fault(ended, failure, canary)
    if quotes and not quoting:
        fault = ""
    return Facts(
        wall=wall,
        model=model or ended.call.model[:NAME_MAX],
        version=version,
        outcome=ended.outcome,
        failure=failure,
        fault=fault[:TEXT_MAX],
        request_id=ended.request_id[:NAME_MAX],
        seconds=round(ended.seconds, 6),
        waited_s=0.0 if exchange is None else round(exchange.waited_s, 6),
        attempts=tuple([_attempt(attempt) for attempt in attempts]),
        answered_by="" if given is None or ended.error is not None else f"{given.model}@{given.version}",
        rollout=rollout,
        trace_id=ended.trace_id,
    )


def answer_of(ended: Ended) -> Tensors:
    """What the caller got, or else the invalid answer that a model gave."""
    if ended.given is not None and ended.outcome in (OK, DEGRADED):
        return ended.given.outputs
    last = last_failed(ended)
    return () if last is None else last.outputs


def _fault(ended: Ended, failure: str, canary: FailedAttempt | None) -> tuple[str, bool]:
    """What went wrong, in words, and whether they may quote values of the inputs."""
    if canary is not None:
        return canary.message, False
    if ended.error is not None:
        return ended.error.message, isinstance(ended.error, CallerError)
    last = last_failed(ended)
    if failure != BadQuality.code and last is not None:
        return last.message, False
    return ended.doubts, True


def _attempt(failed: FailedAttempt) -> Attempt:
    return Attempt(
        version=failed.version,
        replica=failed.replica,
        failure=failed.code,
        fault=failed.message[:TEXT_MAX],
        seconds=round(failed.seconds, 6),
    )


# Tensors as they are kept


def kept_tensor(tensor: Tensor, *, whole: bool, hashed: bool = True) -> KeptTensor:
    """The tensor, or if it isn't to be kept ``whole``, its shape and a hash of what would have been kept."""
    if not whole and not hashed:
        return _without(tensor, TOO_LARGE)
    array = tensor.array
    raw = pack_bytes(array) if tensor.datatype == "BYTES" else np.ascontiguousarray(array).tobytes()
    digest = sha256(raw).hexdigest()
    if whole:
        return KeptTensor(name=tensor.name, datatype=tensor.datatype, shape=tuple(array.shape), raw=raw, sha256=digest)
    return KeptTensor(
        name=tensor.name, datatype=tensor.datatype, shape=tuple(array.shape), sha256=digest, left_out=TOO_LARGE
    )


def redacted_tensor(tensor: Tensor) -> KeptTensor:
    """Its name and shape; no hash, by which a guess could be proved."""
    return _without(tensor, REDACTED)


def _without(tensor: Tensor, why: str) -> KeptTensor:
    return KeptTensor(name=tensor.name, datatype=tensor.datatype, shape=tuple(tensor.array.shape), left_out=why)


def array_of(kept: KeptTensor) -> Array | None:
    """The tensor's array, None if it was left out. Raises ``ValueError`` if the bytes aren't such a tensor."""
    if kept.raw is None:
        return None
    return read_array(kept.datatype, kept.shape, kept.raw)


def read_array(datatype: str, shape: Shape, raw: bytes) -> Array:
    """The array whose wire form ``raw`` is. Raises ``ValueError``."""
    known = DATATYPES.get(datatype)
    if known is None or min(shape, default=0) < 0:
        raise ValueError(f"datatype '{datatype}' and shape {list(shape)}")
    if known.kind == "bytes":
        return unpack_bytes(raw, shape)
    if element_count(shape) * known.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes for {datatype} {list(shape)}")
    return np.frombuffer(raw, known.dtype).reshape(shape)
