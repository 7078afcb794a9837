"""The gateway's hands: Redis and the broker. Tests of the gateway put a fake in its place."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, cast

import kombu.exceptions
import msgspec
from celery import current_app

from accounts import budgets
from common.errors import BackendUnavailable
from common.redis import async_redis
from inference import keys
from inference.messages import Cancel, Frame, Job, decode_frame
from inference.queue_limit import QueueLimit
from models_mgmt.presence import WorkerReport, alive_workers

logger = logging.getLogger(__name__)

TASK_NAME = "inference.tasks.generate"
STREAM_SECONDS = 10
_BLOCK_MS = 1000
_READ_COUNT = 256
_PUBLISHERS = 2
_FIELD = b"f"


class Transport(Protocol):
    """What a gateway needs of the world. Every method raises redis.RedisError when Redis does not answer."""

    async def open(self, web_id: str) -> None: ...

    async def read(self) -> list[Frame]: ...

    async def beat(self) -> bool: ...

    async def workers(self) -> list[WorkerReport]: ...

    async def enter(self, model_id: str, request_ids: Sequence[str], seconds: float) -> None: ...

    async def publish(self, queue: str, job: Job, priority: int) -> None: ...

    async def cancel(self, queue: str, model_id: str, cancel: Cancel, seconds: float) -> None: ...

    async def claims(self, job_ids: Sequence[str]) -> dict[str, str]: ...

    async def close(self) -> None: ...


class RedisTransport:
    """Reads one Redis stream, publishes Celery tasks from threads of its own, for one event loop."""

    def __init__(self) -> None:
        self._redis = async_redis()
        self._limit = QueueLimit(self._redis)
        self._stream = ""
        self._last_id: bytes = b"0-0"
        self._publishers = ThreadPoolExecutor(_PUBLISHERS, thread_name_prefix="publish")

    async def open(self, web_id: str) -> None:
        """Make this web process's stream; a worker writes to it only while it exists."""
        self._stream = keys.reply_stream(web_id)
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.xadd(self._stream, {b"opened": b"1"})
            pipe.expire(self._stream, STREAM_SECONDS)
            await pipe.execute()

    async def read(self) -> list[Frame]:
        """The frames that have come in, in order, after waiting up to a second for one."""
        answer = await self._redis.xread({self._stream: self._last_id}, count=_READ_COUNT, block=_BLOCK_MS)
        frames: list[Frame] = []
        for entries in _entries(answer):
            for entry_id, fields in entries:
                self._last_id = entry_id
                if (data := fields.get(_FIELD)) is not None:
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
            kept, _ = await pipe.execute()
        return bool(kept)

    async def workers(self) -> list[WorkerReport]:
        return await alive_workers()

    async def enter(self, model_id: str, request_ids: Sequence[str], seconds: float) -> None:
        """Raises BackendUnavailable when the model's queue is full."""
        await self._limit.enter(model_id, request_ids, seconds)

    async def publish(self, queue: str, job: Job, priority: int) -> None:
        """Put a job into a device's queue. Raises BackendUnavailable when the broker does not take it."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._publishers, _publish, queue, job, priority)
        except (kombu.exceptions.OperationalError, OSError) as error:
            raise BackendUnavailable("The request could not be queued; try again.", retry_after=1) from error

    async def cancel(self, queue: str, model_id: str, cancel: Cancel, seconds: float) -> None:
        """End requests wherever they are, and give their places in the queue back."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for request_id in cancel.request_ids:
                pipe.set(keys.cancelled(request_id), cancel.reason, px=max(1000, int(seconds * 1000)))
            pipe.publish(keys.control_channel(queue), cancel.encode())
            pipe.zrem(keys.model_queue(model_id), *cancel.request_ids)
            await pipe.execute()
        if cancel.reason == "lost":  # else the worker settles what was generated
            await budgets.release(list(cancel.request_ids))

    async def claims(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Which worker has begun each job; those that none has begun are missing."""
        values = cast("list[bytes | None]", await self._redis.mget([keys.claim(job_id) for job_id in job_ids]))
        return {job_id: value.decode() for job_id, value in zip(job_ids, values, strict=True) if value is not None}

    async def close(self) -> None:
        self._publishers.shutdown(wait=False, cancel_futures=True)
        await cast("Any", self._redis.delete(self._stream))


def _publish(queue: str, job: Job, priority: int) -> None:
    current_app.send_task(
        TASK_NAME,
        (job.encode(),),
        task_id=job.job_id,
        queue=queue,
        priority=priority,
        ignore_result=True,
        argsrepr="",  # else the prompt's beginning would stand in the message's headers and the worker's log
        kwargsrepr="",
        retry=False,
    )


def _entries(answer: Any) -> list[list[tuple[bytes, dict[bytes, bytes]]]]:
    """XREAD's answer is a list of pairs in RESP2, a mapping in RESP3 (whose values have one more level)."""
    if not answer:
        return []
    if isinstance(answer, dict):
        return [batch for batches in answer.values() for batch in batches]
    return [batch for _, batch in answer]
