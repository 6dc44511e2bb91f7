"""Spans as OpenTelemetry's SDK has and sends them: OTLP over HTTP, in protobuf.

Imported only where traces are sent. What the settings don't say (certificates, headers, compression) comes from
OpenTelemetry's environment variables, read once when this connects. Not here: when anything is sent
(``serving.tracing.export``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from serving.tracing.spans import Finished, Value, spans_of
from serving.tracing.w3c import parse_tracestate

TRACES_PATH: Final = "/v1/traces"
ATTRIBUTE_MAX_CHARACTERS: Final = 1024
_KINDS: Final = {
    "server": api.SpanKind.SERVER,
    "client": api.SpanKind.CLIENT,
    "internal": api.SpanKind.INTERNAL,
}
_SAMPLED: Final = api.TraceFlags(api.TraceFlags.SAMPLED)
_NO_STATE: Final = api.TraceState()
_UNSET: Final = api.Status()
_SCOPE: Final = InstrumentationScope("holdfast")


class NotSent(Exception):
    """The collector didn't take them."""


def traces_url(endpoint: str) -> str:
    """An endpoint without a path is a collector's; its path for traces is added, as OpenTelemetry does."""
    return endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + TRACES_PATH


def http_exporter(endpoint: str, *, timeout_s: float) -> SpanExporter:
    """Its own words about failures are left out of the log: ``serving.tracing.export`` has one line for them."""
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    return OTLPSpanExporter(endpoint=traces_url(endpoint), timeout=timeout_s)


class OtlpCollector:
    """A ``serving.tracing.export.Collector`` on an SDK exporter. For one thread; ``close`` may come from any.

    Spans are made whole, as the exporter takes them: the SDK's tracer, which would have to be told every id and moment
    that is known already, takes ten times as long.
    """

    def __init__(self, exporter: SpanExporter, *, resource: dict[str, str], random_bits: Callable[[int], int]) -> None:
        self._exporter = exporter
        self._bits = random_bits
        self._resource = _Hashed(Resource.create(dict(resource)))

    def send(self, requests: Sequence[Finished]) -> int:
        spans = [made for request in requests for made in self._made(request)]
        if self._exporter.export(spans) is not SpanExportResult.SUCCESS:
            raise NotSent("the collector doesn't answer, or refuses them")
        return len(spans)

    def close(self) -> None:
        """What waits to be repeated isn't; what is under way ends with its timeout at the latest."""
        self._exporter.shutdown()

    def _made(self, request: Finished) -> Iterator[ReadableSpan]:
        trace = request.trace
        state = _NO_STATE if trace.state is None else api.TraceState(list(parse_tracestate(trace.state)))
        for span in spans_of(request, self._new_span_id):
            parent = None
            if span.parent_id is not None:
                remote = span.span_id == trace.span_id
                parent = api.SpanContext(trace.trace_id, span.parent_id, remote, _SAMPLED, state)
            yield ReadableSpan(
                span.name,
                api.SpanContext(trace.trace_id, span.span_id, False, _SAMPLED, state),
                parent,
                self._resource,
                {name: _bounded(value) for name, value in span.attributes.items()},
                kind=_KINDS[span.kind],
                status=_UNSET if span.error is None else api.Status(api.StatusCode.ERROR, span.error),
                start_time=_ns(span.began),
                end_time=_ns(max(span.ended, span.began)),
                instrumentation_scope=_SCOPE,
            )

    def _new_span_id(self) -> int:
        return self._bits(64) or 1


class _Hashed(Resource):
    """The exporter asks for the hash with every span, and the SDK makes JSON of it all each time."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(dict(resource.attributes), resource.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other


def _bounded(value: Value) -> Value:
    return value[:ATTRIBUTE_MAX_CHARACTERS] if isinstance(value, str) else value


def _ns(wall: float) -> int:
    return int(wall * 1e9)
