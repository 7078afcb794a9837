"""Reads the hosts and the queues every few seconds, keeps what it reads, and tells of it.

Every worker process has a sampler. Of those of one host, the one with the host's lease reads it and its GPUs; of all
samplers, one reads the queues.
"""

import logging
import os
import secrets
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import redis
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connection, transaction
from django.db.models import F
from django.db.models.functions import Greatest

from common.events import AnyEvent, GpuMetrics, InferenceStats, SystemMetrics, publish
from models_mgmt.presence import live_workers
from monitoring.gpus import Gpu, GpuReader, mean_minute
from monitoring.hosts import HostFigures, HostReader
from monitoring.lease import Lease
from monitoring.models import HostMinute, HostSample, QueueMinute
from monitoring.packed_hours import unpack
from monitoring.queues import waiting_by_model
from monitoring.rollups import ALL_MODELS
from monitoring.selectors import Lately, lately

logger = logging.getLogger(__name__)

_LEASE_READINGS = 3
_FIRST_SECONDS = 1.0  # the CPU's load is a difference of two readings


class Sampler:
    """A thread that reads every settings.SAMPLE_SECONDS."""

    def __init__(self, host: str | None = None) -> None:
        self._host = host or settings.WORKER_HOST
        holder = f"{self._host}-{os.getpid()}-{secrets.token_hex(3)}"
        seconds = _LEASE_READINGS * settings.SAMPLE_SECONDS
        self._host_lease = Lease(f"sampler-{self._host}", holder=holder, seconds=seconds)
        self._queue_lease = Lease("sampler-queues", holder=holder, seconds=seconds)
        self._host_reader = HostReader()
        self._gpu_reader = GpuReader()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5.0)

    def read_once(self) -> None:
        """Read what this sampler is to read, keep it and tell of it. Raises DatabaseError, redis.RedisError."""
        reads_host, now = self._host_lease.renew()
        reads_queues, _ = self._queue_lease.renew()
        if not reads_host and not reads_queues:
            return
        workers = live_workers()
        active = sum(item.in_flight for worker in workers for item in worker.deployments)
        stats = lately(now)
        if reads_host:
            figures, gpus = self._host_reader.read(), self._gpu_reader.read()
            keep_sample(self._host, now, figures, gpus)
            publish(*host_events(self._host, figures, gpus, active, stats.requests_per_minute))
        if reads_queues:
            waiting = waiting_by_model(workers, now)
            keep_queues(now, waiting)
            publish(_stats_event(stats, active, waiting[ALL_MODELS]))

    def _run(self) -> None:
        pause = min(_FIRST_SECONDS, settings.SAMPLE_SECONDS)
        while not self._stopping.wait(pause):
            pause = settings.SAMPLE_SECONDS
            try:
                close_old_connections()
                self.read_once()
            except (redis.RedisError, DatabaseError) as error:
                logger.warning("this host was not sampled: %s", error)
            except Exception:
                logger.exception("this host was not sampled")
        connection.close()
        self._gpu_reader.close()
        try:
            self._host_lease.release()
            self._queue_lease.release()
        except redis.RedisError as error:
            logger.warning("another sampler has to wait before it goes on: %s", error)


def keep_sample(host: str, now: float, figures: HostFigures, gpus: Sequence[Gpu]) -> None:
    """Write a reading, and the mean of all that there are of its minute. Raises DatabaseError."""
    minute = int(now // 60)
    with transaction.atomic():
        HostSample.objects.create(
            host=host,
            at=now,
            minute=minute,
            gpus=msgspec.json.encode(gpus).decode(),
            **msgspec.structs.asdict(figures),
        )
        mean = _mean(list(HostSample.objects.filter(minute=minute, host=host)))
        HostMinute.objects.bulk_create(
            [HostMinute(minute=minute, host=host, **mean)],
            update_conflicts=True,
            unique_fields=("minute", "host"),
            update_fields=tuple(mean),
        )
        unpack([now])


def keep_queues(now: float, waiting: dict[str, int]) -> None:
    """Add a reading of the queues to the minute's. Raises DatabaseError."""
    minute = int(now // 60)
    with transaction.atomic():
        for model, depth in sorted(waiting.items()):
            more = {"readings": F("readings") + 1, "waiting": F("waiting") + depth, "most": Greatest("most", depth)}
            if not QueueMinute.objects.filter(model=model, minute=minute).update(**more):
                QueueMinute.objects.create(model=model, minute=minute, readings=1, waiting=depth, most=depth)
        unpack([now])


def _mean(samples: Sequence[HostSample]) -> dict[str, Any]:
    last, count = samples[-1], len(samples)
    return {
        "cpu_usage": round(sum(sample.cpu_usage for sample in samples) / count, 1),
        "cpu_cores": last.cpu_cores,
        "memory_used": sum(sample.memory_used for sample in samples) // count,
        "memory_total": last.memory_total,
        "gpus": mean_minute([_gpus_decoder.decode(sample.gpus) for sample in samples]).encode(),
    }


_gpus_decoder = msgspec.json.Decoder(tuple[Gpu, ...])


def host_events(
    host: str, figures: HostFigures, gpus: Sequence[Gpu], active: int, request_rate: float
) -> list[AnyEvent]:
    system = SystemMetrics(
        host=host,
        cpu_usage=figures.cpu_usage,
        memory_usage=figures.memory_usage,
        disk_usage=figures.disk_usage,
        network_rx=round(figures.network_rx),
        network_tx=round(figures.network_tx),
        active_requests=active,
        request_rate=request_rate,
    )
    return [
        system,
        *(
            GpuMetrics(
                host=host,
                gpu_id=gpu.id,
                name=gpu.name or "",
                utilization=gpu.utilization,
                memory_used=gpu.memory_used,
                memory_total=gpu.memory_total,
                temperature=gpu.temperature,
                power_usage=gpu.power_usage,
                power_limit=gpu.power_limit,
            )
            for gpu in gpus
        ),
    ]


def _stats_event(stats: Lately, active: int, queued: int) -> InferenceStats:
    return InferenceStats(
        total_requests=stats.requests,
        successful_requests=stats.completed,
        error_rate=stats.error_rate,
        avg_response_time=stats.avg_response_time,
        requests_per_minute=stats.requests_per_minute,
        tokens_per_second=stats.tokens_per_second,
        time_to_first_token=stats.time_to_first_token,
        active_requests=active,
        queued_requests=queued,
    )


_sampler: Sampler | None = None


def on_worker_ready(**_: object) -> None:
    """Celery's `worker_ready`: begin to sample, in a worker that has a device."""
    global _sampler  # noqa: PLW0603 - one per process
    if settings.WORKER_DEVICE and _sampler is None:
        _sampler = Sampler()
        _sampler.start()


def on_worker_shutdown(**_: object) -> None:
    """Celery's `worker_shutdown`."""
    if _sampler is not None:
        _sampler.stop()
