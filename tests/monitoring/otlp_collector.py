"""A collector of traces, as OTLP over HTTP knows it."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Received:
    """One span. Times are Unix time; `resource` tells of the process that made it."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start: float
    end: float
    attributes: dict[str, Any] = field(default_factory=dict)
    resource: dict[str, Any] = field(default_factory=dict)
    is_error: bool = False


class Collector:
    def __init__(self, url: str) -> None:
        self.url = url
        self._spans: list[Received] = []
        self._lock = threading.Lock()

    def take(self, data: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(data)
        spans = [
            Received(
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                name=span.name,
                start=span.start_time_unix_nano / 1e9,
                end=span.end_time_unix_nano / 1e9,
                attributes=_plain(span.attributes),
                resource=_plain(part.resource.attributes),
                is_error=span.status.code == 2,
            )
            for part in request.resource_spans
            for scope in part.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans += spans

    def trace(self, trace_id: str) -> list[Received]:
        """What has come in of a trace, in the order of the spans' beginnings."""
        with self._lock:
            return sorted((span for span in self._spans if span.trace_id == trace_id), key=lambda span: span.start)

    def of_request(self, request_id: str) -> list[Received]:
        with self._lock:
            return [span for span in self._spans if span.attributes.get("llama_gpu.request_id") == request_id]


@contextmanager
def otlp_collector() -> Iterator[Collector]:
    """A collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            collector.take(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _plain(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}
