"""What an ended request adds to the metrics, and its spans."""

import time
from collections.abc import Mapping

from common import metric_catalogue as counted
from common import tracing
from common.tracing import Span
from inference.models import RequestRecord
from inference.timeline import WEB_STAGES, stages


def count(record: RequestRecord) -> None:
    """Add a request to the metrics."""
    model = record.model
    counted.REQUESTS.add(model, record.kind, record.state)
    counted.PROMPT_TOKENS.add(model, by=record.prompt_tokens)
    counted.CACHED_TOKENS.add(model, by=record.cached_tokens)
    counted.COMPLETION_TOKENS.add(model, by=record.completion_tokens)
    if record.error_code:
        counted.ERRORS.add(model, record.error_code)
    if record.finish_reason and record.completion_tokens:
        counted.QUEUE_SECONDS.observe(model, value=record.accept_time + record.queue_time)
        counted.FIRST_TOKEN_SECONDS.observe(model, value=record.first_token_time)
    if record.state == RequestRecord.State.COMPLETED:
        counted.REQUEST_SECONDS.observe(model, value=record.response_time)
    for plugin, figures in record.plugins.items():
        counted.PLUGIN_SECONDS.add(plugin, by=figures["seconds"])
        counted.PLUGIN_CALLS.add(plugin, by=figures["calls"])
        counted.PLUGIN_FAILURES.add(plugin, by=figures["failures"])


def trace(record: RequestRecord, carrier: Mapping[str, str], ended_at: float) -> None:
    """Tell the spans of a request that ended at this time of this host's clock, below the span of its web process."""
    tracer = tracing.tracer()
    if tracer is None:
        return
    submitted_at = ended_at - record.total_time
    arrived_at = submitted_at - record.door_time
    children = [
        Span(
            stage.name,
            arrived_at + stage.start,
            arrived_at + stage.start + stage.seconds,
            _plugin_attributes(record) if stage.name == "plugins" else {},
        )
        for stage in stages(record)
        if stage.name not in WEB_STAGES
    ]
    span = tracer.open(is_entry=False, start=submitted_at, carrier=carrier)
    span.close(
        name="inference",
        end=ended_at,
        attributes={
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "llama_gpu",
            "gen_ai.request.model": record.model,
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.completion_tokens,
            "llama_gpu.request_id": record.request_id,
            "llama_gpu.item": record.item,
            "llama_gpu.kind": record.kind,
            "llama_gpu.state": record.state,
            "llama_gpu.finish_reason": record.finish_reason,
            "llama_gpu.backend": record.backend,
            "llama_gpu.worker": record.worker,
            "llama_gpu.cached_tokens": record.cached_tokens,
        },
        children=children,
        error=record.error_code or record.cancel_reason,
    )


def _plugin_attributes(record: RequestRecord) -> dict[str, float]:
    """The seconds of each plugin, also of what it did to the answer."""
    return {f"llama_gpu.plugin.{plugin}": figures["seconds"] for plugin, figures in record.plugins.items()}


class Ended:
    """A record on its way to the database, with what its spans need."""

    __slots__ = ("at", "record", "trace")

    def __init__(self, record: RequestRecord, trace: Mapping[str, str]) -> None:
        self.record = record
        self.trace = trace
        self.at = time.time()
