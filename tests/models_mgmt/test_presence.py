"""Who announces itself is alive, who stops is not."""

import asyncio
from typing import Any

from models_mgmt.presence import (
    DeploymentReport,
    WorkerReport,
    alive_workers,
    announce,
    live_workers,
    lost_workers,
    queue_name,
    withdraw,
)


def report(worker_id: str) -> WorkerReport:
    return WorkerReport(
        worker_id=worker_id,
        host="host",
        device="cuda0",
        backend="cuda",
        queue=queue_name("host", "cuda0"),
        pid=7,
        started_at=1.5,
        deployments=(DeploymentReport(model_id="m", state="loading", progress=0.5),),
    )


async def test_an_announced_worker_is_seen_by_threads_and_coroutines(clean_redis: str) -> None:
    announce(report("w1"))
    announce(report("w2"))

    assert live_workers() == await alive_workers() == [report("w1"), report("w2")]


async def test_a_withdrawn_worker_is_gone_at_once(clean_redis: str) -> None:
    announce(report("w1"))
    withdraw(report("w1"))

    assert live_workers() == await alive_workers() == []


async def test_a_silent_worker_is_gone_after_a_while(clean_redis: str, settings: Any) -> None:
    settings.WORKER_LOST_SECONDS = 0.05
    announce(report("w1"))
    await asyncio.sleep(0.1)

    assert await alive_workers() == []


def test_a_report_finds_its_deployment() -> None:
    found = report("w").deployment("m")

    assert found is not None
    assert found.progress == 0.5
    assert report("w").deployment("other") is None


async def test_a_worker_that_went_silent_is_remembered_as_lost_until_its_device_has_another(
    clean_redis: str, settings: Any
) -> None:
    settings.WORKER_LOST_SECONDS = 0.05
    announce(report("w1"))
    await asyncio.sleep(0.2)

    (lost,) = await lost_workers(await alive_workers())
    assert lost.report == report("w1")
    assert 0.1 < lost.silent_seconds < 5

    settings.WORKER_LOST_SECONDS = 5
    announce(report("w2"))
    assert await lost_workers(await alive_workers()) == []


async def test_a_worker_that_signed_off_is_not_lost(clean_redis: str) -> None:
    announce(report("w1"))
    withdraw(report("w1"))

    assert await lost_workers(await alive_workers()) == []
