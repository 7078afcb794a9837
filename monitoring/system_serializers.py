"""What the doors of /system take and give."""

from datetime import UTC
from typing import Any

from django.conf import settings
from rest_framework import serializers

from common.paging import DEFAULT_LIMIT, MAX_LIMIT
from common.serializers import StrictSerializer

LEVELS = ("debug", "info", "warning", "error")
_SERVICE_STATES = ("running", "degraded", "stopped")


class HostBody(serializers.Serializer[Any]):
    """One host as it was read last. Usage in percent, traffic in bytes per second."""

    host = serializers.CharField()
    cpu_usage = serializers.FloatField()
    cpu_cores = serializers.IntegerField()
    memory_usage = serializers.FloatField()
    memory_total_bytes = serializers.IntegerField()
    memory_used_bytes = serializers.IntegerField()
    disk_usage = serializers.FloatField(help_text="Of the disk that models lie on.")
    network_rx = serializers.FloatField()
    network_tx = serializers.FloatField()
    gpu_count = serializers.IntegerField()
    sampled_at = serializers.DateTimeField()


class SystemBody(serializers.Serializer[Any]):
    """All hosts together, in percent: CPUs weigh by their cores, memory and disks by their size."""

    cpu_usage = serializers.FloatField()
    memory_usage = serializers.FloatField()
    disk_usage = serializers.FloatField()
    gpu_count = serializers.IntegerField()
    gpu_usage = serializers.ListField(
        child=serializers.FloatField(allow_null=True), help_text="Utilization of each GPU; null: it doesn't tell."
    )
    gpu_memory = serializers.ListField(child=serializers.FloatField(allow_null=True))
    hosts = HostBody(many=True)


class StatisticsBody(serializers.Serializer[Any]):
    """Requests that were taken up; what was refused at the door is not among them. Each item of a batch counts."""

    total_requests = serializers.IntegerField(help_text="Ever.")
    successful_requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()
    cancelled_requests = serializers.IntegerField()
    error_rate = serializers.FloatField(help_text="Failed of all, 0 to 1.")
    avg_response_time = serializers.FloatField(
        allow_null=True, help_text="Seconds, of the last five minutes; null: no request was completed then."
    )
    time_to_first_token = serializers.FloatField(allow_null=True, help_text="As above.")
    requests_per_minute = serializers.FloatField(help_text="Of the last five minutes.")
    tokens_per_second = serializers.FloatField(help_text="Generated, in the last five minutes.")
    active_requests = serializers.IntegerField()


class StatusResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    status = serializers.ChoiceField(choices=["healthy", "degraded", "unhealthy"])
    uptime = serializers.IntegerField(help_text="Seconds, of the web process that answers.")
    version = serializers.CharField()
    system = SystemBody()
    services = serializers.DictField(
        child=serializers.ChoiceField(choices=_SERVICE_STATES),
        help_text="`inference_engine`, `plugin_manager`, `web_dashboard`, `websocket_server`, and what they stand on.",
    )
    statistics = StatisticsBody()


class GpuBody(serializers.Serializer[Any]):
    """Memory in MiB, utilization in percent, temperature in °C, power in W. null: the GPU doesn't tell."""

    id = serializers.IntegerField(help_text="Its number on its host.")
    host = serializers.CharField()
    status = serializers.ChoiceField(choices=["ok", "lost"], help_text="`lost`: it no longer answers its driver.")
    name = serializers.CharField(allow_null=True)
    uuid = serializers.CharField(allow_null=True)
    driver_version = serializers.CharField(allow_null=True)
    cuda_version = serializers.CharField(allow_null=True)
    memory_total = serializers.IntegerField(allow_null=True)
    memory_used = serializers.IntegerField(allow_null=True)
    memory_free = serializers.IntegerField(allow_null=True)
    utilization = serializers.IntegerField(allow_null=True)
    temperature = serializers.IntegerField(allow_null=True)
    power_usage = serializers.IntegerField(allow_null=True)
    power_limit = serializers.IntegerField(allow_null=True)
    sampled_at = serializers.DateTimeField()


class GpusResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    gpu_count = serializers.IntegerField()
    gpus = GpuBody(many=True)


class MetricsQuery(StrictSerializer):
    timeframe = serializers.ChoiceField(choices=list(settings.METRICS_TIMEFRAMES), default="1h")
    granularity = serializers.ChoiceField(choices=list(settings.METRICS_GRANULARITIES), default="5m")
    model = serializers.CharField(
        default=None, max_length=200, help_text='Requests and queue of this model alone: an id, an alias, or "default".'
    )


def _series(what: str) -> serializers.ListField:
    return serializers.ListField(child=serializers.FloatField(allow_null=True), help_text=what)


def _gpu_series(what: str) -> serializers.ListField:
    child = serializers.ListField(child=serializers.FloatField(allow_null=True), allow_null=True)
    return serializers.ListField(child=child, help_text=f"{what} of each of `gpus`, in percent.")


class MetricsBody(serializers.Serializer[Any]):
    """Each list is as long as `timestamps`; null where there was nothing to measure."""

    timestamps = serializers.ListField(child=serializers.DateTimeField(), help_text="Where the buckets begin.")
    requests = _series("Requests that ended.")
    request_rate = _series("Requests per minute.")
    error_rate = _series("Failed of all, 0 to 1.")
    response_time = _series("Mean seconds from a completed request's arrival to its end.")
    response_time_p50 = _series("Seconds; percentiles are at most 1 % off.")
    response_time_p95 = _series("Seconds.")
    response_time_p99 = _series("Seconds.")
    time_to_first_token = _series("Mean seconds from a completed request's arrival to its first token.")
    time_to_first_token_p50 = _series("Seconds.")
    time_to_first_token_p95 = _series("Seconds.")
    time_to_first_token_p99 = _series("Seconds.")
    tokens_per_second = _series("Generated tokens, of all requests together.")
    queue_depth = _series("Requests that waited, on average.")
    queue_depth_max = _series("The most that waited.")
    cpu_usage = _series("Percent, of all hosts together.")
    memory_usage = _series("Percent, of all hosts together.")
    gpu_utilization = _gpu_series("Utilization")
    gpu_memory = _gpu_series("Memory in use")


class GpuColumnBody(serializers.Serializer[Any]):
    host = serializers.CharField()
    id = serializers.IntegerField()


class MetricsResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    timeframe = serializers.CharField()
    granularity = serializers.CharField()
    model = serializers.CharField(allow_null=True)
    gpus = GpuColumnBody(many=True, help_text="Whose figures the lists in the GPUs' series are, in their order.")
    metrics = MetricsBody()


class LogsQuery(StrictSerializer):
    level = serializers.ChoiceField(choices=LEVELS, default="info", help_text="This level and those above it.")
    since = serializers.DateTimeField(
        required=False, default_timezone=UTC, help_text="ISO 8601; UTC, if it names no zone."
    )
    limit = serializers.IntegerField(default=DEFAULT_LIMIT, min_value=1, max_value=MAX_LIMIT)
    component = serializers.CharField(required=False, max_length=64, help_text="Such as `inference_engine`.")
    search = serializers.CharField(required=False, max_length=200, help_text="Part of the message, in any case.")
    request_id = serializers.CharField(required=False, max_length=64)
    cursor = serializers.CharField(
        required=False, max_length=100, help_text="`next_cursor` of the page before; none for the first page."
    )


class LogEntryBody(serializers.Serializer[Any]):
    timestamp = serializers.DateTimeField()
    level = serializers.ChoiceField(choices=LEVELS)
    component = serializers.CharField()
    message = serializers.CharField()
    metadata = serializers.DictField()
    request_id = serializers.CharField(allow_null=True)
    logger = serializers.CharField()
    host = serializers.CharField()
    process = serializers.CharField()


class LogsResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    logs = LogEntryBody(many=True)
    total_entries = serializers.IntegerField(help_text="In the log.")
    filtered_entries = serializers.IntegerField(help_text="Of these, what the filters leave, on all pages.")
    next_cursor = serializers.CharField(allow_null=True)
