"""Whether this process tells of its spans."""

import importlib.util

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from common import tracing

_NEEDED = "opentelemetry.exporter.otlp.proto.http"


def install_tracer() -> None:
    """Plug OpenTelemetry in, if settings.OTLP_ENDPOINT names a collector. Raises ImproperlyConfigured without it."""
    if not settings.OTLP_ENDPOINT:
        return
    if not _is_installed():
        raise ImproperlyConfigured(
            "LLAMA_GPU_OTLP_ENDPOINT is set, but OpenTelemetry is not installed; "
            "install it with: .venv/bin/pip install -c constraints.txt '.[otel]'"
        )
    from monitoring.opentelemetry import OpenTelemetryTracer  # most servers run without its packages

    tracing.install(OpenTelemetryTracer(settings.OTLP_ENDPOINT, share=settings.TRACE_SHARE))


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec(_NEEDED) is not None
    except ModuleNotFoundError:
        return False
