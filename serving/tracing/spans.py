"""Spans of a request, made of its marks: a tree of plain values. Pure.

``POST /v2/models/{model}/infer`` has the children decode, admit, one attempt after the other, fallback and encode. An
attempt that came back has a ``model run``, as long as the replica says that it took. It ends where the answer came: a
replica says nothing of when. Attempts of a fallback are the fallback's children. Not here: how spans are sent
(``serving.tracing.export``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

from serving.errors import CallerError
from serving.protocol.status import status_of
from serving.request.pipeline import CANCELLED, DEGRADED, OK, Ended
from serving.tracing.privacy import Quotable
from serving.tracing.request_log import fault_text
from serving.tracing.trace import AttemptMark, Trace

SpanIds = Callable[[], int]
Value = str | int | float | bool

ROUTE: Final = "/v2/models/{model}/infer"
VERSION_ROUTE: Final = "/v2/models/{model}/versions/{version}/infer"
MODEL_RUN: Final = "model run"
NAME_MAX: Final = 128


class Span(NamedTuple):
    """``began`` and ``ended`` in wall clock seconds; ``error`` is the status' description, None if it went well."""

    name: str
    span_id: int
    parent_id: int | None
    began: float
    ended: float
    attributes: Mapping[str, Value]
    kind: Literal["server", "client", "internal"] = "internal"
    error: str | None = None


class Finished(NamedTuple):
    """What the spans of a request are made of, once it has ended; it keeps no tensor and no exception alive."""

    trace: Trace
    ended_at: float
    asked: bool
    attributes: Mapping[str, Value]
    error: str | None
    fallback: Mapping[str, Value]
    pinned: bool


def finished(ended: Ended, trace: Trace, *, now: float, rollout: str, quotable: Quotable) -> Finished:
    """To be called when the request ends; ``now`` in monotonic seconds."""
    origin = ended.origin
    failed = ended.outcome not in (OK, DEGRADED, CANCELLED) and not isinstance(ended.error, CallerError)
    text = fault_text(ended, quotable)
    return Finished(
        trace,
        now,
        ended.exchange is not None,
        _attributes(ended, rollout),
        (text or ended.outcome) if failed else None,
        {}
        if origin is None
        else {"holdfast.fallback.kind": origin.kind, "holdfast.degraded_reason": origin.reason or ""},
        ended.call.version is not None,
    )


def spans_of(request: Finished, span_ids: SpanIds) -> list[Span]:
    """The request's own span first."""
    trace = request.trace
    offset = trace.wall - trace.began
    root = Span(
        f"POST {VERSION_ROUTE if request.pinned else ROUTE}",
        trace.span_id,
        None if trace.parent is None else trace.parent.span_id,
        trace.began + offset,
        request.ended_at + offset,
        request.attributes,
        "server",
        request.error,
    )
    return [root, *_stages(request, span_ids, offset)]


def _stages(request: Finished, span_ids: SpanIds, offset: float) -> Iterator[Span]:
    trace, end = request.trace, request.ended_at

    def stage(name: str, began: float, ended: float, attributes: Mapping[str, Value], error: str | None = None) -> Span:
        return Span(name, span_ids(), trace.span_id, began + offset, ended + offset, attributes, error=error)

    decoded = trace.decoded_at or end
    yield stage("decode", trace.began, decoded, {})
    if not trace.decoded_at:
        return
    own, others = trace.attempts[: trace.fallback_from], trace.attempts[trace.fallback_from :]
    if not trace.fell_back_at:
        own, others = trace.attempts, []
    if request.asked:
        admitted = trace.admitted_at or trace.fell_back_at or end
        yield stage("admit", decoded, admitted, {"holdfast.admitted": bool(trace.admitted_at)})
    for mark in own:
        yield from _attempt(mark, trace.span_id, span_ids, offset)
    if trace.fell_back_at:
        answered = bool(trace.answered_at)
        fallback = stage(
            "fallback",
            trace.fell_back_at,
            trace.answered_at or end,
            {"holdfast.answered": answered, **request.fallback},
            None if answered else "nothing could stand in",
        )
        yield fallback
        for mark in others:
            yield from _attempt(mark, fallback.span_id, span_ids, offset)
    if trace.answered_at:
        yield stage("encode", trace.answered_at, end, {})


def _attempt(mark: AttemptMark, parent: int, span_ids: SpanIds, offset: float) -> Iterator[Span]:
    model, _, version = mark.version.partition("@")
    attributes: dict[str, Value] = {
        "holdfast.model": model,
        "holdfast.version": version,
        "holdfast.outcome": mark.outcome,
    }
    if mark.replica:
        attributes["holdfast.replica"] = mark.replica
        attributes["holdfast.waited_s"] = round(max(mark.sent - mark.began, 0.0), 6)
    error = None if mark.outcome in (OK, CANCELLED) else mark.outcome
    own = Span("attempt", span_ids(), parent, mark.began + offset, mark.ended + offset, attributes, "client", error)
    yield own
    if mark.compute_s is not None and mark.returned:
        batch: dict[str, Value] = {
            "holdfast.version": version,
            "holdfast.replica": mark.replica,
            "holdfast.batch.requests": mark.requests,
            "holdfast.batch.rows": mark.rows,
            "holdfast.compute_s": round(mark.compute_s, 6),
        }
        began = max(mark.returned - mark.compute_s, mark.sent)
        yield Span(MODEL_RUN, span_ids(), own.span_id, began + offset, mark.returned + offset, batch)


def _attributes(ended: Ended, rollout: str) -> dict[str, Value]:
    """Of the request's own span; names that OpenTelemetry's conventions have are theirs."""
    model, version = ended.key
    given, origin = ended.given, ended.origin
    known: dict[str, Value | None] = {
        "http.request.method": "POST",
        "http.route": ROUTE if ended.call.version is None else VERSION_ROUTE,
        "http.response.status_code": _status(ended),
        "error.type": None if ended.error is None else ended.error.code,
        "holdfast.request_id": ended.request_id,
        "holdfast.model": (model or ended.call.model)[:NAME_MAX],
        "holdfast.version": version,
        "holdfast.rollout": rollout,
        "holdfast.outcome": ended.outcome,
        "holdfast.answered_by": None if given is None or ended.error is not None else f"{given.model}@{given.version}",
        "holdfast.degraded": None if origin is None or origin.reason is None else origin.kind,
        "holdfast.degraded_reason": None if origin is None else origin.reason,
        "holdfast.rows": None if ended.request is None else ended.request.rows,
    }
    return {name: value for name, value in known.items() if value not in (None, "")}


def _status(ended: Ended) -> int | None:
    """None if nobody got an answer."""
    if ended.outcome == CANCELLED:
        return None
    if ended.outcome in (OK, DEGRADED):
        return 200
    return 500 if ended.error is None else status_of(ended.error)
