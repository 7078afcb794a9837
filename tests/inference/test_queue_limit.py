"""The queue limit, in a real Redis."""

import asyncio
from typing import Any

import pytest

from common.errors import BackendUnavailable
from common.redis import redis_line, sync_redis
from inference import queue_limit


async def enter(name: str, count: int = 1, seconds: float = 60) -> None:
    await queue_limit.enter(
        redis_line(),
        model_id="m",
        request_ids=[f"{name}-{number}" for number in range(count)],
        seconds=seconds,
        broker_list="broker",
        message=name.encode(),
    )


async def admitted(name: str, count: int = 1, seconds: float = 60) -> bool:
    try:
        await enter(name, count, seconds)
    except BackendUnavailable:
        return False
    return True


async def test_it_admits_exactly_the_limit_under_concurrency(clean_redis: str, settings: Any) -> None:
    settings.MAX_QUEUE = 10

    outcomes = await asyncio.gather(*(admitted(f"r{number}") for number in range(40)))

    assert sum(outcomes) == 10


async def test_a_batch_enters_whole_or_not_at_all(clean_redis: str, settings: Any) -> None:
    settings.MAX_QUEUE = 5

    assert await admitted("a", count=3)
    assert not await admitted("b", count=3)
    assert await admitted("c", count=2)


async def test_only_what_was_admitted_is_published_and_first_comes_first(clean_redis: str, settings: Any) -> None:
    settings.MAX_QUEUE = 2
    for name in ("a", "b", "c"):
        await admitted(name)

    assert sync_redis().lrange("broker", 0, -1) == [b"b", b"a"]  # taken from the right


async def test_a_refusal_says_when_to_come_back(clean_redis: str, settings: Any) -> None:
    settings.MAX_QUEUE = 1
    await enter("a")

    with pytest.raises(BackendUnavailable) as caught:
        await enter("b")

    assert caught.value.retry_after
    assert caught.value.details == {"model": "m", "queued": 1, "max_queue": 1}


async def test_what_a_crash_left_behind_falls_out(
    clean_redis: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MAX_QUEUE = 1
    monkeypatch.setattr("inference.queue_limit._SLACK_SECONDS", 0.0)

    assert await admitted("a", seconds=0.05)
    await asyncio.sleep(0.1)
    assert await admitted("b")


async def test_who_has_a_place_is_published_again_though_the_queue_is_full(clean_redis: str, settings: Any) -> None:
    settings.MAX_QUEUE = 3
    await enter("moved", count=2)
    await enter("other")

    assert await admitted("moved", count=2)
    assert not await admitted("new")
    assert not await admitted("moved", count=3)  # one of these has none yet
    assert sync_redis().lrange("broker", 0, -1) == [b"moved", b"other", b"moved"]
