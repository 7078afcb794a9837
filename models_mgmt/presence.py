"""Which workers live and what they hold: each one announces itself in Redis twice a second, under a key that expires.

Nothing is ever cleaned up by hand: a worker that dies stops announcing, and its key is gone after
settings.WORKER_LOST_SECONDS. Clocks of different hosts don't matter, since only Redis measures the time.
"""

import logging
from collections.abc import Iterable
from typing import Any, Literal, cast

import msgspec
from django.conf import settings

from common.redis import async_redis, key, sync_redis
from engine.messages import Ready
from models_mgmt.device_memory import DeviceMemory

logger = logging.getLogger(__name__)

_REMEMBERED_SECONDS = 3600

DeploymentState = Literal["loading", "loaded", "unloading", "failed", "lost"]
# A model is in the first of these that one of its deployments is in.
ModelState = Literal["loaded", "loading", "unloading", "failed", "lost", "available"]


class DeploymentReport(msgspec.Struct, frozen=True):
    """One model in one worker, as of its last heartbeat.

    `progress` goes from 0 to 1 while it loads, `stage` says at what it is. `running`, `waiting` and `kv_used` (share of
    the KV cache, 0 to 1) are those after the engine's last step. `in_flight` counts the requests the worker has taken
    and not ended, `idle_seconds` the time since the last of them. `tokens_per_second` is the decode speed of one
    request, averaged over the last ones. `device_bytes` is what its engine holds by now of each device that it lies on,
    also while it loads. Times are Unix seconds. `error` is why it failed; while it loads, why the engine before it
    ended, if nobody had told it to. `is_missed`, of a failed one: it ran before, or it failed a short time ago.
    """

    model_id: str
    state: DeploymentState
    pid: int | None = None
    ready: Ready | None = None
    progress: float = 0.0
    stage: str = ""
    running: int = 0
    waiting: int = 0
    in_flight: int = 0
    idle_seconds: float = 0.0
    kv_used: float = 0.0
    error: str = ""
    error_code: str = ""
    loaded_at: float | None = None
    tokens_per_second: float | None = None
    device_bytes: dict[str, int] = {}
    is_missed: bool = True


class WorkerReport(msgspec.Struct, frozen=True):
    """One worker process. `worker_id` is unique per process start, `queue` the Celery queue of requests that it reads.

    `memory` is what its device has and has free; None before it was measured.
    """

    worker_id: str
    host: str
    device: str
    backend: str
    queue: str
    pid: int
    started_at: float
    draining: bool = False
    memory: DeviceMemory | None = None
    deployments: tuple[DeploymentReport, ...] = ()

    def deployment(self, model_id: str) -> DeploymentReport | None:
        """This worker's deployment of a model, if it has one."""
        return next((item for item in self.deployments if item.model_id == model_id), None)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(WorkerReport)


def queue_name(host: str, device: str) -> str:
    """The Celery queue of a device (`cpu`, `cuda0`, `mps`) of a host."""
    return f"device.{host}.{device}"


def control_queue_name(host: str, device: str) -> str:
    """The Celery queue of a device's loads and unloads, which never wait behind requests."""
    return f"control.{host}.{device}"


def announce(report: WorkerReport) -> None:
    """Say that this worker lives. Raises redis.RedisError."""
    data = _encoder.encode(report)
    with sync_redis().pipeline(transaction=False) as pipe:
        pipe.set(_worker_key(report.worker_id), data, px=int(settings.WORKER_LOST_SECONDS * 1000))
        pipe.sadd(_index_key(), report.worker_id)
        pipe.set(_last_key(report.host, report.device), data, ex=_REMEMBERED_SECONDS)
        pipe.sadd(_places_key(), f"{report.host}/{report.device}")
        pipe.execute()


def withdraw(report: WorkerReport) -> None:
    """Say that this worker has ended, as it was told to. Raises redis.RedisError."""
    with sync_redis().pipeline(transaction=False) as pipe:
        pipe.delete(_worker_key(report.worker_id), _last_key(report.host, report.device))
        pipe.srem(_index_key(), report.worker_id)
        pipe.srem(_places_key(), f"{report.host}/{report.device}")
        pipe.execute()


def live_workers() -> list[WorkerReport]:
    """The workers that announced themselves within settings.WORKER_LOST_SECONDS. Raises redis.RedisError."""
    client = sync_redis()
    ids = _names(cast("Iterable[Any]", client.smembers(_index_key())))
    if not ids:
        return []
    values = cast("list[bytes | None]", client.mget([_worker_key(worker_id) for worker_id in ids]))
    if lost := _lost(ids, values):
        client.srem(_index_key(), *lost)
    return _decode(values)


async def alive_workers() -> list[WorkerReport]:
    """`live_workers` for the event loop. Raises redis.RedisError."""
    client = async_redis()
    ids = _names(await cast("Any", client.smembers(_index_key())))
    if not ids:
        return []
    values = cast("list[bytes | None]", await client.mget([_worker_key(worker_id) for worker_id in ids]))
    if lost := _lost(ids, values):
        await cast("Any", client.srem(_index_key(), *lost))
    return _decode(values)


class LostWorker(msgspec.Struct, frozen=True):
    """A worker that went silent without signing off: its last report, and for how many seconds it has been silent."""

    report: WorkerReport
    silent_seconds: float


async def lost_workers(alive: Iterable[WorkerReport]) -> list[LostWorker]:
    """The last workers of devices that have none now, for an hour. Raises redis.RedisError."""
    client = async_redis()
    places = set(_names(await cast("Any", client.smembers(_places_key()))))
    lost: list[LostWorker] = []
    for place in sorted(places - {f"{worker.host}/{worker.device}" for worker in alive}):
        host, _, device = place.rpartition("/")
        async with client.pipeline(transaction=False) as pipe:
            pipe.get(_last_key(host, device))
            pipe.pttl(_last_key(host, device))
            value, left = await pipe.execute()
        reports = _decode([value])
        if value is None:
            await cast("Any", client.srem(_places_key(), place))
        elif reports:
            lost.append(LostWorker(reports[0], _REMEMBERED_SECONDS - left / 1000))
    return lost


def announce_scheduler() -> None:
    """Say that the scheduler does its periodic work. Raises redis.RedisError."""
    sync_redis().set(_scheduler_key(), b"1", px=int(settings.SCHEDULER_LOST_SECONDS * 1000))


async def scheduler_lives() -> bool:
    """Whether it has worked within settings.SCHEDULER_LOST_SECONDS. Raises redis.RedisError."""
    return bool(await async_redis().exists(_scheduler_key()))


def _names(members: Iterable[Any]) -> list[str]:
    return sorted(member.decode() if isinstance(member, bytes) else str(member) for member in members)


def _lost(ids: list[str], values: list[bytes | None]) -> list[str]:
    return [worker_id for worker_id, value in zip(ids, values, strict=True) if value is None]


def _decode(values: list[bytes | None]) -> list[WorkerReport]:
    reports = []
    for value in values:
        if value is None:
            continue
        try:
            reports.append(_decoder.decode(value))
        except msgspec.DecodeError:
            logger.warning("a worker's report can't be read; it may run another version of this server")
    return reports


def _worker_key(worker_id: str) -> str:
    return key("worker", worker_id)


def _last_key(host: str, device: str) -> str:
    return key("worker-last", host, device)


def _scheduler_key() -> str:
    return key("scheduler")


def _places_key() -> str:
    return key("worker-places")


def _index_key() -> str:
    return key("workers")
