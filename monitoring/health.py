"""Whether the parts that the server stands on answer."""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection
from django.db.models import Q
from redis.exceptions import RedisError

from common.redis import async_redis, key
from models_mgmt.models import Model
from models_mgmt.presence import WorkerReport, alive_workers, scheduler_lives

CheckStatus = Literal["ok", "degraded", "failed"]

CHECK_SECONDS = 3.0
# Without these, nobody gets an answer.
VITAL = ("database", "redis", "workers", "engines")


@dataclass(frozen=True, slots=True)
class Check:
    """One part's answer; `latency` in seconds."""

    status: CheckStatus
    latency: float
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        return {"status": self.status, "latency": round(self.latency, 4), **self.facts}


Answer = tuple[CheckStatus, dict[str, Any]]


async def check_all() -> dict[str, Check]:
    """Ask all parts at once; each has CHECK_SECONDS to answer."""
    names = ("database", "redis", "workers", "engines", "scheduler")
    parts = (_database(), _redis(), _workers(), _engines(), _scheduler())
    checks = await asyncio.gather(*map(_timed, parts))
    return dict(zip(names, checks, strict=True))


def overall(checks: Mapping[str, Check]) -> Literal["healthy", "degraded", "unhealthy"]:
    """`unhealthy` when requests can't be served, `degraded` when something else is not as it should be."""
    if any(checks[name].status == "failed" for name in VITAL):
        return "unhealthy"
    return "healthy" if all(check.status == "ok" for check in checks.values()) else "degraded"


async def _timed(check: Awaitable[Answer]) -> Check:
    begun = time.perf_counter()
    try:
        status, facts = await asyncio.wait_for(check, CHECK_SECONDS)
    except (DatabaseError, RedisError, OSError, TimeoutError):
        return Check("failed", time.perf_counter() - begun)
    return Check(status, time.perf_counter() - begun, facts)


async def _database() -> Answer:
    await sync_to_async(_read_a_row)()
    return "ok", {}


def _read_a_row() -> None:
    """From a table: SQLite answers `SELECT 1` without a look at its file, and reads on in one that was deleted."""
    if connection.vendor == "sqlite":
        Path(connection.settings_dict["NAME"]).stat()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM django_migrations LIMIT 1")


async def _redis() -> Answer:
    await async_redis().set(key("health"), b"1", ex=60)
    return "ok", {}


async def _workers() -> Answer:
    serving = await _serving()
    return "ok" if serving else "failed", {"alive": len(serving)}


async def _engines() -> Answer:
    """By model: one is well that a worker has loaded, or loads for the first time. It is not when it could not be
    loaded, nor while an engine that has ended by itself is started again. What failed some time ago and had never run
    counts no more, unless it is to be there: one bad try must not be held against a server for good."""
    models: dict[str, set[str]] = {}
    for worker in await _serving():
        for item in worker.deployments:
            state = "failed" if item.state == "loading" and item.error else item.state
            models.setdefault(item.model_id, set()).add(state if item.is_missed else "tried")
    loaded = sum("loaded" in states for states in models.values())
    missing = {model: states for model, states in models.items() if "loaded" not in states}
    failed = {model for model, states in missing.items() if "failed" in states}
    if tried := {model for model, states in missing.items() if "tried" in states} - failed:
        failed |= await sync_to_async(_wanted)(tried)
    facts = {"loaded_models": loaded, "failed_models": len(failed)}
    if not failed:
        return "ok", facts
    return "degraded" if loaded else "failed", facts


def _wanted(models: Iterable[str]) -> set[str]:
    """Those that workers load by themselves."""
    rows = Model.objects.filter(Q(is_default=True) | Q(pinned=True), enabled=True, pk__in=models)
    return set(rows.values_list("pk", flat=True))


async def _scheduler() -> Answer:
    return "ok" if await scheduler_lives() else "failed", {}


async def _serving() -> Sequence[WorkerReport]:
    return [worker for worker in await alive_workers() if not worker.draining]
