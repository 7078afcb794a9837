"""Spans for OpenTelemetry: built once they are over, exported by OTLP over HTTP on a thread of its own."""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property

from django.conf import settings
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from common.tracing import Attributes, OpenSpan, Span

_NANOSECONDS = 1_000_000_000
_w3c = TraceContextTextMapPropagator()


class OpenTelemetryTracer:
    """`endpoint`: the collector's address, without `/v1/traces`. `share`: of the requests that come without a trace;
    for the others whoever began it has decided. The exporter's threads begin with the first span."""

    def __init__(self, endpoint: str, *, share: float, exporter: SpanExporter | None = None) -> None:
        self._endpoint = endpoint
        self._share = share
        self._exporter = exporter

    def open(self, *, is_entry: bool, start: float, carrier: Mapping[str, str]) -> OpenSpan:
        kind = trace.SpanKind.SERVER if is_entry else trace.SpanKind.CONSUMER
        context = _w3c.extract(carrier)
        span = self._tracer.start_span("request", context, kind, start_time=_nanoseconds(start))
        return _OpenTelemetrySpan(self._tracer, span)

    def shutdown(self) -> None:
        """Export what is left, and end the threads."""
        self._provider.shutdown()

    @cached_property
    def _tracer(self) -> trace.Tracer:
        return self._provider.get_tracer("llama_gpu", settings.VERSION)

    @cached_property
    def _provider(self) -> TracerProvider:
        resource = Resource.create(
            {
                "service.name": "llama-gpu",
                "service.version": settings.VERSION,
                "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
                "host.name": socket.gethostname(),
                "process.pid": os.getpid(),
                "llama_gpu.process": sys.argv[1] if len(sys.argv) > 1 else "",
            }
        )
        provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(self._share)), resource=resource)
        exporter = self._exporter or OTLPSpanExporter(f"{self._endpoint.rstrip('/')}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return provider


class _OpenTelemetrySpan:
    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def carrier(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        _w3c.inject(headers, trace.set_span_in_context(self._span))
        return headers

    def close(
        self, *, name: str, end: float, attributes: Attributes, children: Sequence[Span] = (), error: str = ""
    ) -> None:
        if self._span.is_recording():
            context = trace.set_span_in_context(self._span)
            for child in children:
                span = self._tracer.start_span(child.name, context, start_time=_nanoseconds(child.start))
                span.set_attributes(child.attributes)
                span.end(_nanoseconds(child.end))
            self._span.update_name(name)
            self._span.set_attributes(attributes)
            if error:
                self._span.set_attribute("error.type", error)
                self._span.set_status(trace.StatusCode.ERROR)
        self._span.end(_nanoseconds(end))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * _NANOSECONDS)
