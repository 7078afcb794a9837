"""The queue limit, in a real Redis."""

import asyncio
from typing import Any

import pytest

from common.errors import BackendUnavailable
from common.redis import redis_line, sync_redis
from inference import queue_limit


async def fill(tier: str, calls: int) -> int:
    """How many of so many parallel calls are admitted."""
    outcomes = await asyncio.gather(
        *(admitted(f"{tier}{number}", goes_first=tier == "premium") for number in range(calls))
    )
    return sum(outcomes)


async def leave(*names: str) -> None:
    with sync_redis().pipeline(transaction=False) as pipe:
        queue_limit.leave_in(pipe, "m", [f"{name}-0" for name in names])
        pipe.execute()


async def enter(name: str, count: int = 1, seconds: float = 60, *, goes_first: bool = True) -> None:
    await queue_limit.enter(
        redis_line(),
        model_id="m",
        request_ids=[f"{name}-{number}" for number in range(count)],
        goes_first=goes_first,
        seconds=seconds,
        broker_list="broker",
        message=name.encode(),
    )


async def admitted(name: str, count: int = 1, seconds: float = 60, *, goes_first: bool = True) -> bool:
    try:
        await enter(name, count, seconds, goes_first=goes_first)
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
    assert caught.value.details == {"model": "m", "queued": 1, "max_queue": 1, "tier_queued": 1, "tier_max_queue": 1}


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


async def test_standard_requests_leave_places_to_premium_ones(clean_redis: str, settings: Any) -> None:
    settings.MAX_QUEUE = 20

    assert await fill("standard", 60) == 16
    assert await fill("premium", 60) == 4
    with pytest.raises(BackendUnavailable) as caught:
        await enter("more", goes_first=False)
    shares = {"tier_queued": 16, "tier_max_queue": 16}
    assert caught.value.details == {"model": "m", "queued": 20, "max_queue": 20, **shares}


async def test_premium_requests_leave_places_to_standard_ones_that_wait(clean_redis: str, settings: Any) -> None:
    settings.MAX_QUEUE = 20

    assert await admitted("early", goes_first=False)
    assert await fill("premium", 60) == 16
    assert await fill("standard", 60) == 3


async def test_premium_requests_alone_fill_the_queue_until_a_standard_one_is_refused(
    clean_redis: str, settings: Any
) -> None:
    settings.MAX_QUEUE = 20

    assert await fill("premium", 60) == 20
    assert not await admitted("late", goes_first=False)
    await leave("premium0")
    assert not await admitted("premium again")  # the place is the standard one's
    assert await admitted("late", goes_first=False)
    await leave("late", *(f"premium{number}" for number in range(20)))
    sync_redis().delete("lgpu:queue:m:refused")
    assert await fill("premium", 60) == 20


async def test_calls_of_both_tiers_at_once_get_exactly_the_places_that_there_are(
    clean_redis: str, settings: Any
) -> None:
    settings.MAX_QUEUE = 20

    assert sum(await asyncio.gather(fill("standard", 100), fill("premium", 100))) == 20


@pytest.mark.parametrize(("share", "admitted_ones"), [(0.5, 10), (1.0, 20)])
async def test_the_share_is_a_setting(clean_redis: str, settings: Any, share: float, admitted_ones: int) -> None:
    settings.MAX_QUEUE, settings.QUEUE_SHARE = 20, share

    assert await fill("standard", 60) == admitted_ones


async def test_a_queue_of_one_place_takes_either(clean_redis: str, settings: Any) -> None:
    settings.MAX_QUEUE = 1

    assert await admitted("standard", goes_first=False)
    assert not await admitted("premium")
    await leave("standard")
    assert await admitted("premium")
