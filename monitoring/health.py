"""Whether the parts that the server stands on answer."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Literal

from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection
from redis.exceptions import RedisError

from common.redis import async_redis, key
from models_mgmt.presence import alive_workers

CHECK_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Check:
    """One part's answer; `latency` in seconds."""

    status: Literal["ok", "failed"]
    latency: float
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        return {"status": self.status, "latency": round(self.latency, 4), **self.facts}


async def check_all() -> dict[str, Check]:
    """Ask the database, Redis and the workers at once; each has CHECK_SECONDS to answer."""
    names = ("database", "redis", "workers")
    checks = await asyncio.gather(_timed(_database()), _timed(_redis()), _timed(_workers()))
    return dict(zip(names, checks, strict=True))


async def _timed(check: Awaitable[dict[str, Any]]) -> Check:
    begun = time.perf_counter()
    try:
        facts = await asyncio.wait_for(check, CHECK_SECONDS)
    except (DatabaseError, RedisError, OSError, TimeoutError):
        return Check("failed", time.perf_counter() - begun)
    status: Literal["ok", "failed"] = "failed" if facts.get("alive") == 0 else "ok"
    return Check(status, time.perf_counter() - begun, facts)


async def _database() -> dict[str, Any]:
    await sync_to_async(_select_one)()
    return {}


def _select_one() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


async def _redis() -> dict[str, Any]:
    await async_redis().set(key("health"), b"1", ex=60)
    return {}


async def _workers() -> dict[str, Any]:
    workers = [worker for worker in await alive_workers() if not worker.draining]
    loaded = {item.model_id for worker in workers for item in worker.deployments if item.state == "loaded"}
    return {"alive": len(workers), "loaded_models": len(loaded)}
