"""The doors of /system: how the installation is, and how it was."""

import functools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from asgiref.sync import sync_to_async
from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.doors import Door
from common.envelope import success, timestamp
from common.redis import async_redis
from models_mgmt.presence import alive_workers, lost_workers
from models_mgmt.selectors import aresolve_model
from monitoring import log_selectors
from monitoring.answers import answer
from monitoring.health import check_all
from monitoring.hosts import percent
from monitoring.models import LogEntry
from monitoring.selectors import LiveHost, live_hosts
from monitoring.status import SystemStatus, system_status
from monitoring.system_serializers import (
    GpusResponse,
    LogsQuery,
    LogsResponse,
    MetricsQuery,
    MetricsResponse,
    StatusResponse,
)


class SystemStatusView(Door):
    limit_group = "system"

    @extend_schema(operation_id="get_system_status", tags=["System"], responses=StatusResponse)
    async def get(self, request: Request) -> Response:
        """Whether all parts run, how busy the hosts are, and how the requests fare."""
        checks, workers = await check_all(), await alive_workers()
        status = await sync_to_async(system_status)(
            now=await _now(), checks=checks, workers=workers, lost=await lost_workers(workers)
        )
        return Response(_status_body(status))


class SystemGpus(Door):
    limit_group = "system"

    @extend_schema(operation_id="list_gpus", tags=["System"], responses=GpusResponse)
    async def get(self, request: Request) -> Response:
        """The GPUs of all hosts as they were read last. No GPU: an empty list."""
        hosts = await sync_to_async(live_hosts)(await _now())
        gpus = [
            {"id": gpu.id, "host": host.host, **msgspec.structs.asdict(gpu), "sampled_at": _moment(host.at)}
            for host in hosts
            for gpu in host.gpus
        ]
        return Response(success(gpu_count=len(gpus), gpus=gpus))


class SystemMetrics(Door):
    limit_group = "system"

    @extend_schema(operation_id="get_metrics", tags=["System"], parameters=[MetricsQuery], responses=MetricsResponse)
    async def get(self, request: Request) -> Response:
        """Requests, tokens, queues, hosts and GPUs over time. The last bucket is the running one."""
        query = MetricsQuery.parse(request.query_params.dict())
        model = None if query["model"] is None else (await aresolve_model(query["model"])).pk
        measured = await sync_to_async(answer)(
            timeframe=query["timeframe"], granularity=query["granularity"], model=model, now=await _now()
        )
        return Response(
            success(
                timeframe=query["timeframe"],
                granularity=query["granularity"],
                model=model,
                gpus=[{"host": host, "id": number} for host, number in measured.gpus],
                metrics={"timestamps": measured.timestamps, **measured.series},
            )
        )


class SystemLogs(Door):
    permission = "admin"
    limit_group = "system"

    @extend_schema(operation_id="list_logs", tags=["System"], parameters=[LogsQuery], responses=LogsResponse)
    async def get(self, request: Request) -> Response:
        """The log of all processes, newest first."""
        query = LogsQuery.parse(request.query_params.dict())
        found = await sync_to_async(log_selectors.find)(query)
        return Response(
            success(
                logs=[_entry_body(entry) for entry in found.entries],
                total_entries=found.total,
                filtered_entries=found.filtered,
                next_cursor=found.next_cursor,
            )
        )


async def _now() -> float:
    """Redis' time, by which samples and records go, whatever the clocks of the hosts say."""
    seconds, microseconds = await async_redis().time()
    return float(seconds + microseconds / 1_000_000)


def _status_body(status: SystemStatus) -> dict[str, Any]:
    counts, lately = status.totals.counts, status.lately
    return success(
        status=status.status,
        uptime=status.uptime,
        version=settings.VERSION,
        system=_system_body(status.hosts),
        services=status.services,
        statistics={
            "total_requests": counts["requests"],
            "successful_requests": counts["completed"],
            "failed_requests": counts["failed"],
            "cancelled_requests": counts["cancelled"],
            "error_rate": status.totals.error_rate,
            "avg_response_time": lately.avg_response_time,
            "time_to_first_token": lately.time_to_first_token,
            "requests_per_minute": lately.requests_per_minute,
            "tokens_per_second": lately.tokens_per_second,
            "active_requests": status.active_requests,
        },
    )


def _system_body(hosts: Sequence[LiveHost]) -> dict[str, Any]:
    figures = [host.figures for host in hosts]
    gpus = [gpu for host in hosts for gpu in host.gpus]
    cores = sum(item.cpu_cores for item in figures)
    return {
        "cpu_usage": round(sum(item.cpu_usage * item.cpu_cores for item in figures) / cores, 1),
        "memory_usage": percent(sum(f.memory_used for f in figures), sum(f.memory_total for f in figures)),
        "disk_usage": percent(sum(f.disk_used for f in figures), sum(f.disk_total for f in figures)),
        "gpu_count": len(gpus),
        "gpu_usage": [gpu.utilization for gpu in gpus],
        "gpu_memory": [gpu.memory_percent for gpu in gpus],
        "hosts": [_host_body(host) for host in hosts],
    }


def _host_body(host: LiveHost) -> dict[str, Any]:
    figures = host.figures
    return {
        "host": host.host,
        "cpu_usage": figures.cpu_usage,
        "cpu_cores": figures.cpu_cores,
        "memory_usage": figures.memory_usage,
        "memory_total_bytes": figures.memory_total,
        "memory_used_bytes": figures.memory_used,
        "disk_usage": figures.disk_usage,
        "network_rx": figures.network_rx,
        "network_tx": figures.network_tx,
        "gpu_count": len(host.gpus),
        "sampled_at": _moment(host.at),
    }


def _entry_body(entry: LogEntry) -> dict[str, Any]:
    return {
        "timestamp": timestamp(entry.at),
        "level": _level(entry.level),
        "component": entry.component,
        "message": entry.message,
        "metadata": entry.metadata,
        "request_id": entry.request_id or None,
        "logger": entry.logger,
        "host": entry.host,
        "process": entry.process,
    }


@functools.cache
def _level(number: int) -> str:
    return str(LogEntry.Level(number).label)


def _moment(seconds: float) -> str:
    return timestamp(datetime.fromtimestamp(seconds, UTC))
