"""A collector of traces: takes OTLP over HTTP as the protocol has it, and keeps every span it was sent."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

TRACES_PATH = "/v1/traces"


class SentSpan(NamedTuple):
    """A span as it came; ids in hexadecimal digits, moments in nanoseconds, ``status`` 2 is an error."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    began: int
    ended: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    status: int
    message: str
    state: str


class FakeOtlp:
    """``refusing`` answers 400, which nobody may repeat."""

    def __init__(self) -> None:
        self.spans: list[SentSpan] = []
        self.headers: list[dict[str, str]] = []
        self.refusing = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def trace(self, trace_id: str) -> list[SentSpan]:
        """Its spans, in the order of time."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.began)

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        if path != TRACES_PATH or headers.get("content-type") != "application/x-protobuf":
            return 404
        if self.refusing:
            return 400
        self.headers.append(headers)
        raw = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        self.spans += _spans(ExportTraceServiceRequest.FromString(raw))
        return 200

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = collector.take(self.path, headers, self.rfile.read(int(headers["content-length"])))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002  # its name in the base class

        return Handler


@contextmanager
def collecting() -> Iterator[FakeOtlp]:
    collector = FakeOtlp()
    thread = threading.Thread(target=collector.serve, name="fake otlp")
    thread.start()
    try:
        yield collector
    finally:
        collector.stop()
        thread.join()


def _spans(request: Any) -> Iterator[SentSpan]:
    for of_resource in request.resource_spans:
        resource = _values(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield SentSpan(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.kind,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _values(span.attributes),
                    resource,
                    span.status.code,
                    span.status.message,
                    span.trace_state,
                )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
