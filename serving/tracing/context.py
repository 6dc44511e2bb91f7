"""What one inference request is known by: its id, and its trace if it is in one.

Not here: which requests are sampled (``serving.tracing.sampling``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Final, Protocol

from serving.tracing.trace import Trace
from serving.tracing.w3c import (
    TRACEPARENT,
    TRACERESPONSE,
    TraceParent,
    format_traceparent,
    parse_traceparent,
    trace_id_text,
)

REQUEST_ID: Final = b"x-request-id"
REQUEST_ID_MAX: Final = 128

Header = tuple[bytes, bytes]


class RequestContext:
    """``traceparent`` is the header as it came. ``trace`` is there only of a request that is sampled."""

    __slots__ = ("_named", "request_id", "trace", "traceparent")

    def __init__(self, request_id: str, *, named: bool, traceparent: bytes | None, trace: Trace | None) -> None:
        """``named``: whether the caller's header says so."""
        self.request_id = request_id
        self.traceparent = traceparent
        self.trace = trace
        self._named = named

    def adopt(self, body_id: str) -> None:
        """The body's id, if it may be one and the header has none."""
        if not self._named and may_be_id(body_id):
            self.request_id = body_id

    @property
    def trace_id(self) -> str:
        """Of the trace that the request is in, ours or its caller's; empty if it is in none."""
        if self.trace is not None:
            return trace_id_text(self.trace.trace_id)
        parent = None if self.traceparent is None else parse_traceparent(self.traceparent)
        return "" if parent is None else trace_id_text(parent.trace_id)

    def headers(self) -> list[Header]:
        """Of the answer."""
        headers = [(REQUEST_ID, self.request_id.encode())]
        if self.trace is not None:
            own = TraceParent(self.trace.trace_id, self.trace.span_id, sampled=True)
            headers.append((TRACERESPONSE, format_traceparent(own)))
        return headers


class Sampler(Protocol):
    def begin(self, headers: Mapping[bytes, bytes]) -> Trace | None:
        """The trace of a request with these headers, None if it isn't sampled."""
        ...


class RequestContexts:
    """Gives every request its context. ``prefix`` is this process's own, so that ids don't meet."""

    def __init__(self, prefix: str, sampler: Sampler | None = None) -> None:
        self._prefix = prefix
        self._next: Callable[[], int] = count(1).__next__
        self._sampler = sampler

    def begin(self, headers: Mapping[bytes, bytes]) -> RequestContext:
        trace = None if self._sampler is None else self._sampler.begin(headers)
        given = headers.get(REQUEST_ID)
        if given is not None and may_be_id(text := given.decode("latin-1").strip(" \t")):
            return RequestContext(text, named=True, traceparent=headers.get(TRACEPARENT), trace=trace)
        own = f"{self._prefix}-{self._next():x}"
        return RequestContext(own, named=False, traceparent=headers.get(TRACEPARENT), trace=trace)


def may_be_id(text: str) -> bool:
    """Printable ASCII of a bounded length, with no space around it: what a header can carry, and a line of a log."""
    return 0 < len(text) <= REQUEST_ID_MAX and text.isascii() and text.isprintable() and text == text.strip(" ")
