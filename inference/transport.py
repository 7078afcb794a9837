"""The gateway's hands: Redis and the broker. Tests of the gateway put a fake in its place."""

import logging
import time
from collections.abc import Sequence
from typing import Any, Protocol, cast

import msgspec
from asgiref.sync import sync_to_async
from django.db import DatabaseError

from accounts import budgets
from common.events import apublish
from common.redis import async_redis, new_redis_line, redis_line
from inference import keys, request_telemetry
from inference.keeping import keep, log
from inference.lost import Lost
from inference.messages import WORKER_LOST, Cancel, Frame, Job, decode_frame
from inference.queue_limit import enter, leave_in
from inference.task_message import BACKGROUND, GOES_FIRST, broker_list, task_message
from models_mgmt import deployments
from models_mgmt.presence import WorkerReport, alive_workers

logger = logging.getLogger(__name__)

STREAM_SECONDS = 10
_BLOCK_MS = 1000
_READ_COUNT = 256
_FIELD = b"f"


class Transport(Protocol):
    """What a gateway needs of the world. Every method raises redis.RedisError when Redis does not answer."""

    async def open(self, web_id: str) -> None: ...

    async def read(self) -> list[Frame]: ...

    async def beat(self) -> bool: ...

    async def workers(self) -> list[WorkerReport]: ...

    def now(self) -> float: ...

    async def demand(self, model_id: str) -> str: ...

    async def submit(self, queue: str, job: Job, priority: int, seconds: float) -> None: ...

    async def cancel(self, queue: str, model_id: str, cancel: Cancel, seconds: float) -> None: ...

    async def claims(self, job_ids: Sequence[str]) -> dict[str, str]: ...

    async def lost(self, ends: Sequence[Lost]) -> None: ...

    async def close(self) -> None: ...


class RedisTransport:
    """Reads one Redis stream and publishes Celery tasks, for one event loop."""

    def __init__(self) -> None:
        self._redis = async_redis()
        self._line = redis_line()
        self._reader = new_redis_line()
        self._stream = ""
        self._last_id: bytes = b"0-0"
        self._ahead = 0.0

    async def open(self, web_id: str) -> None:
        """Make this web process's stream; a worker writes to it only while it exists."""
        self._stream = keys.reply_stream(web_id)
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.xadd(self._stream, {b"opened": b"1"})
            pipe.expire(self._stream, STREAM_SECONDS)
            pipe.time()
            *_, answer = await pipe.execute()
        self._set_clock(answer)

    async def read(self) -> list[Frame]:
        """The frames that have come in, in order, after waiting up to a second for one."""
        command = ("XREAD", "COUNT", _READ_COUNT, "BLOCK", _BLOCK_MS, "STREAMS", self._stream, self._last_id)
        answer = await self._reader.execute(*command, seconds=_BLOCK_MS / 1000)
        frames: list[Frame] = []
        for entries in _entries(answer):
            for entry_id, fields in entries:
                self._last_id = entry_id
                if (data := _field(fields)) is not None:
                    try:
                        frames.append(decode_frame(data))
                    except msgspec.DecodeError:
                        logger.exception("a worker's frame can't be read")
        return frames

    async def beat(self) -> bool:
        """Keep the stream alive and drop what was read. False when it was lost, and with it perhaps some events."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.expire(self._stream, STREAM_SECONDS)
            pipe.xtrim(self._stream, minid=self._last_id, approximate=True)
            pipe.time()
            kept, _, answer = await pipe.execute()
        self._set_clock(answer)
        return bool(kept)

    def now(self) -> float:
        """Redis' time in Unix seconds, which all hosts go by, as it was told at the last beat."""
        return time.monotonic() + self._ahead

    def _set_clock(self, answer: tuple[int, int]) -> None:
        self._ahead = answer[0] + answer[1] / 1_000_000 - time.monotonic()

    async def demand(self, model_id: str) -> str:
        """Have a model loaded that no worker has; returns the id of the worker that does it. Raises ApiError."""
        return await deployments.demand(model_id)

    async def workers(self) -> list[WorkerReport]:
        return await alive_workers()

    async def submit(self, queue: str, job: Job, priority: int, seconds: float) -> None:
        """Put a job into a device's queue, and its requests among the model's for `seconds`.

        Those in the background are not counted there: whoever sends them bounds them, and they take nobody's place.
        Raises BackendUnavailable when the model's queue is full.
        """
        message, target = task_message(job, queue=queue, priority=priority), broker_list(queue, priority)
        if priority == BACKGROUND:
            await self._line.execute("LPUSH", target, message)
            return
        await enter(
            self._line,
            model_id=job.model_id,
            request_ids=[request.request_id for request in job.requests],
            goes_first=priority == GOES_FIRST,
            seconds=seconds,
            broker_list=target,
            message=message,
        )

    async def cancel(self, queue: str, model_id: str, cancel: Cancel, seconds: float) -> None:
        """End requests wherever they are, and give their places in the queue back."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for request_id in cancel.request_ids:
                pipe.set(keys.cancelled(request_id), cancel.reason, px=max(1000, int(seconds * 1000)))
            pipe.publish(keys.control_channel(queue), cancel.encode())
            leave_in(pipe, model_id, cancel.request_ids)
            await pipe.execute()
        if cancel.reason in {"lost", WORKER_LOST}:  # else the worker settles what was generated
            await budgets.release(list(cancel.request_ids))

    async def claims(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Which worker has begun each job; those that none has begun are missing."""
        values = cast("list[bytes | None]", await self._redis.mget([keys.claim(job_id) for job_id in job_ids]))
        return {job_id: value.decode() for job_id, value in zip(job_ids, values, strict=True) if value is not None}

    async def lost(self, ends: Sequence[Lost]) -> None:
        """Tell of requests that ended with their worker, count and keep them. Never fails."""
        await apublish(*(end.event for end in ends))
        now = time.time()
        for end in ends:
            request_telemetry.count(end.record)
            request_telemetry.trace(end.record, end.trace, now)
            log(end.record)
        try:
            await sync_to_async(keep)([end.record for end in ends])
        except DatabaseError:
            logger.exception("%d records of requests whose worker was lost could not be written", len(ends))

    async def close(self) -> None:
        await self._reader.close()
        await self._line.execute("DEL", self._stream)


def _entries(answer: Any) -> list[list[tuple[bytes, list[bytes]]]]:
    """XREAD's answer is a list of pairs in RESP2, a mapping in RESP3."""
    if not answer:
        return []
    return list(answer.values()) if isinstance(answer, dict) else [batch for _, batch in answer]


def _field(fields: list[bytes]) -> bytes | None:
    """The frame among an entry's fields, a flat list of names and values."""
    return fields[1] if fields[0] == _FIELD else None
