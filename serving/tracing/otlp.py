"""Spans as OpenTelemetry's own SDK makes and sends them: OTLP over HTTP, in protobuf.

Imported only where traces are sent. What the settings don't say (certificates, headers, compression) comes from
OpenTelemetry's environment variables, read once when this connects. Not here: when anything is sent
(``serving.tracing.export``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from serving.tracing.spans import Finished, Span, spans_of
from serving.tracing.w3c import parse_tracestate

TRACES_PATH: Final = "/v1/traces"
ATTRIBUTE_MAX_CHARACTERS: Final = 1024
_KINDS: Final = {
    "server": api.SpanKind.SERVER,
    "client": api.SpanKind.CLIENT,
    "internal": api.SpanKind.INTERNAL,
}
_SAMPLED: Final = api.TraceFlags(api.TraceFlags.SAMPLED)


class NotSent(Exception):
    """The collector didn't take them."""


def traces_url(endpoint: str) -> str:
    """An endpoint without a path is a collector's; its path for traces is added, as OpenTelemetry does."""
    return endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + TRACES_PATH


def http_exporter(endpoint: str, *, timeout_s: float) -> SpanExporter:
    """Its own words about failures are left out of the log: ``serving.tracing.export`` has one line for them."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    return OTLPSpanExporter(endpoint=traces_url(endpoint), timeout=timeout_s)


class OtlpCollector:
    """A ``serving.tracing.export.Collector`` on an SDK exporter. For one thread; ``close`` may come from any."""

    def __init__(self, exporter: SpanExporter, *, resource: dict[str, str], random_bits: Callable[[int], int]) -> None:
        self._exporter = exporter
        self._ids = _Ids(random_bits)
        self._spans = _Collected()
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create(dict(resource)),
            shutdown_on_exit=False,
            id_generator=self._ids,
            span_limits=SpanLimits(max_span_attribute_length=ATTRIBUTE_MAX_CHARACTERS),
        )
        provider.add_span_processor(self._spans)
        self._tracer = provider.get_tracer("holdfast")

    def send(self, requests: Sequence[Finished]) -> int:
        self._spans.taken()  # of a batch that couldn't be made to its end
        for request in requests:
            self._make(request)
        made = self._spans.taken()
        if self._exporter.export(made) is not SpanExportResult.SUCCESS:
            raise NotSent("the collector doesn't answer, or refuses them")
        return len(made)

    def close(self) -> None:
        """What waits to be repeated isn't; what is under way ends with its timeout at the latest."""
        self._exporter.shutdown()

    def _make(self, request: Finished) -> None:
        trace = request.trace
        members = () if trace.state is None else parse_tracestate(trace.state)
        state = api.TraceState(list(members))
        for span in spans_of(request, self._ids.new_span_id):
            self._ids.trace_id, self._ids.span_id = trace.trace_id, span.span_id
            above = Context()
            if span.parent_id is not None:
                remote = span.span_id == trace.span_id
                parent = api.SpanContext(trace.trace_id, span.parent_id, remote, _SAMPLED, state)
                above = api.set_span_in_context(api.NonRecordingSpan(parent), above)
            self._record(span, above)

    def _record(self, span: Span, above: Context) -> None:
        own = self._tracer.start_span(
            span.name,
            above,
            kind=_KINDS[span.kind],
            attributes=span.attributes,
            start_time=_ns(span.began),
        )
        if span.error is not None:
            own.set_status(api.StatusCode.ERROR, span.error)
        own.end(_ns(max(span.ended, span.began)))


class _Ids(IdGenerator):
    """Gives the SDK the ids that are known already."""

    def __init__(self, random_bits: Callable[[int], int]) -> None:
        self.trace_id = 0
        self.span_id = 0
        self._bits = random_bits

    def new_span_id(self) -> int:
        return self._bits(64) or 1

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _Collected(SpanProcessor):
    """Keeps what has ended until it is taken."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None: ...

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def taken(self) -> list[ReadableSpan]:
        spans, self._spans = self._spans, []
        return spans


def _ns(wall: float) -> int:
    return int(wall * 1e9)
