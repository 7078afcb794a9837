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

logger = logging.getLogger(__name__)

DeploymentState = Literal["loading", "loaded", "failed"]


class DeploymentReport(msgspec.Struct, frozen=True):
    """One model in one worker, as of its last heartbeat.

    `progress` goes from 0 to 1 while it loads. `running`, `waiting` and `kv_used` (share of the KV cache, 0 to 1) are
    those after the engine's last step. `in_flight` counts the requests the worker has taken and not ended.
    `tokens_per_second` is the decode speed of one request, averaged over the last ones. Times are Unix seconds.
    """

    model_id: str
    state: DeploymentState
    pid: int | None = None
    ready: Ready | None = None
    progress: float = 0.0
    running: int = 0
    waiting: int = 0
    in_flight: int = 0
    kv_used: float = 0.0
    error: str = ""
    error_code: str = ""
    loaded_at: float | None = None
    tokens_per_second: float | None = None


class WorkerReport(msgspec.Struct, frozen=True):
    """One worker process. `worker_id` is unique per process start, `queue` the Celery queue it reads."""

    worker_id: str
    host: str
    device: str
    backend: str
    queue: str
    pid: int
    started_at: float
    draining: bool = False
    deployments: tuple[DeploymentReport, ...] = ()

    def deployment(self, model_id: str) -> DeploymentReport | None:
        """This worker's deployment of a model, if it has one."""
        return next((item for item in self.deployments if item.model_id == model_id), None)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(WorkerReport)


def queue_name(host: str, device: str) -> str:
    """The Celery queue of a device (`cpu`, `cuda0`, `mps`) of a host."""
    return f"device.{host}.{device}"


def announce(report: WorkerReport) -> None:
    """Say that this worker lives. Raises redis.RedisError."""
    with sync_redis().pipeline(transaction=False) as pipe:
        pipe.set(_worker_key(report.worker_id), _encoder.encode(report), px=int(settings.WORKER_LOST_SECONDS * 1000))
        pipe.sadd(_index_key(), report.worker_id)
        pipe.execute()


def withdraw(worker_id: str) -> None:
    """Say that this worker has ended. Raises redis.RedisError."""
    with sync_redis().pipeline(transaction=False) as pipe:
        pipe.delete(_worker_key(worker_id))
        pipe.srem(_index_key(), worker_id)
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


def _index_key() -> str:
    return key("workers")
