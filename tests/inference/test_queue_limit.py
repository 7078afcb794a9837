"""The queue limit, in a real Redis."""

import asyncio
from typing import Any

import pytest

from common.errors import BackendUnavailable
from common.redis import async_redis
from inference.queue_limit import QueueLimit


async def admitted(limit: QueueLimit, name: str, count: int = 1, seconds: float = 60) -> bool:
    try:
        await limit.enter("m", [f"{name}-{number}" for number in range(count)], seconds)
    except BackendUnavailable:
        return False
    return True


async def test_it_admits_exactly_the_limit_under_concurrency(clean_redis: str, settings: Any) -> None:
    settings.MAX_QUEUE = 10
    limit = QueueLimit(async_redis())

    outcomes = await asyncio.gather(*(admitted(limit, f"r{number}") for number in range(40)))

    assert sum(outcomes) == 10


async def test_a_batch_enters_whole_or_not_at_all(clean_redis: str, settings: Any) -> None:
    settings.MAX_QUEUE = 5
    limit = QueueLimit(async_redis())

    assert await admitted(limit, "a", count=3)
    assert not await admitted(limit, "b", count=3)
    assert await admitted(limit, "c", count=2)


async def test_a_refusal_says_when_to_come_back(clean_redis: str, settings: Any) -> None:
    settings.MAX_QUEUE = 1
    limit = QueueLimit(async_redis())
    await limit.enter("m", ["a"], 60)

    with pytest.raises(BackendUnavailable) as caught:
        await limit.enter("m", ["b"], 60)

    assert caught.value.retry_after
    assert caught.value.details == {"model": "m", "queued": 1, "max_queue": 1}


async def test_what_a_crash_left_behind_falls_out(
    clean_redis: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MAX_QUEUE = 1
    monkeypatch.setattr("inference.queue_limit._SLACK_SECONDS", 0.0)
    limit = QueueLimit(async_redis())

    assert await admitted(limit, "a", seconds=0.05)
    await asyncio.sleep(0.1)
    assert await admitted(limit, "b")
