"""A key's token budget in Redis: reserved, settled, given back, and never overdrawn."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
from pytest_django import Settings

from accounts import budgets
from accounts.caller import TokenBudget
from common.errors import InvalidInput, RateLimitExceeded
from common.redis import close_async_redis, sync_redis
from tests.accounts.overdraw import KEY_ID

HOUR = TokenBudget(tokens=1000, window=3600)


def settle(**tokens: int) -> None:
    with sync_redis().pipeline(transaction=False) as pipe:
        budgets.settle_in(pipe, tokens)
        pipe.execute()


async def used(budget: TokenBudget = HOUR) -> tuple[int, int]:
    standing = await budgets.standing(KEY_ID, budget)
    await close_async_redis()
    return standing.used, standing.reserved


def test_a_thousand_parallel_calls_from_several_processes_never_overdraw(clean_redis: str) -> None:
    command = [sys.executable, "-m", "tests.accounts.overdraw", clean_redis, "5000", "250"]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "llama_gpu_site.settings"}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(4)]
    outputs = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    took = sum(output["took"] for output in outputs)
    assert max(output["most"] for output in outputs) <= 5000
    assert 4700 < took <= 5000  # all but used up: what was reserved and not taken went to others
    assert asyncio.run(used(TokenBudget(5000, 3600))) == (took, 0)


async def test_what_is_reserved_is_gone_until_it_is_settled(clean_redis: str) -> None:
    standing = await budgets.reserve(KEY_ID, HOUR, {"a": 700, "b": 100}, seconds=10)
    assert (standing.remaining, standing.reserved) == (200, 800)
    with pytest.raises(RateLimitExceeded) as refused:
        await budgets.reserve(KEY_ID, HOUR, {"c": 201}, seconds=10)
    assert refused.value.details["remaining"] == 200
    assert refused.value.details["reserved"] == 800
    assert refused.value.details["needed"] == 201
    assert refused.value.details["reset"] == standing.reset
    assert 3590 <= (refused.value.retry_after or 0) <= 3600
    assert refused.value.headers["X-TokenBudget-Reset"] == str(standing.reset)
    settle(a=50)
    assert await used() == (150, 100)
    await budgets.release(["a", "b"])
    assert await used() == (50, 0)


async def test_a_batch_is_reserved_whole_or_not_at_all(clean_redis: str) -> None:
    await budgets.reserve(KEY_ID, HOUR, {"a": 500}, seconds=10)
    with pytest.raises(RateLimitExceeded):
        await budgets.reserve(KEY_ID, HOUR, {"b": 400, "c": 101}, seconds=10)
    assert await used() == (500, 500)


async def test_who_can_do_with_less_gets_equal_shares_of_what_is_left(clean_redis: str) -> None:
    await budgets.reserve(KEY_ID, HOUR, {"a": 500}, seconds=10)
    wanted = {"b": 400, "c": 150, "d": 400}
    with pytest.raises(RateLimitExceeded):
        await budgets.reserve(KEY_ID, HOUR, wanted, seconds=10, least=167)
    standing = await budgets.reserve(KEY_ID, HOUR, wanted, seconds=10, least=100)
    assert (standing.most, standing.used) == (166, 500 + 166 + 150 + 166)
    await budgets.release(list(wanted))
    assert await used() == (500, 500)
    assert (await budgets.reserve(KEY_ID, HOUR, {"b": 500}, seconds=10, least=1)).used == 1000  # nobody needs to


async def test_what_can_never_fit_is_bad_input(clean_redis: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await budgets.reserve(KEY_ID, HOUR, {"a": 1001}, seconds=10)
    assert refused.value.details == {"field": "max_tokens", "needed": 1001, "token_budget": 1000}


async def test_a_new_window_is_not_charged_for_the_last_one(clean_redis: str) -> None:
    brief = TokenBudget(tokens=1000, window=1)
    first = await budgets.reserve(KEY_ID, brief, {"a": 900}, seconds=10)
    await asyncio.sleep(1.1)
    second = await budgets.reserve(KEY_ID, brief, {"b": 900}, seconds=10)
    assert second.reset > first.reset
    settle(a=10)
    assert await used() == (900, 900)


async def test_what_nobody_settles_is_given_back_when_it_is_due(
    clean_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "_SLACK_SECONDS", 0.0)
    await budgets.reserve(KEY_ID, HOUR, {"a": 900}, seconds=0.2)
    await asyncio.sleep(0.3)
    standing = await budgets.reserve(KEY_ID, HOUR, {"b": 900}, seconds=10)
    assert standing.used == 900
    settle(a=5)
    assert await used() == (900, 900)


async def test_a_reservation_is_raised_as_far_as_the_budget_goes(clean_redis: str) -> None:
    await budgets.reserve(KEY_ID, HOUR, {"a": 300, "b": 500}, seconds=10)
    assert await asyncio.to_thread(budgets.raise_now, "a", 501) is False
    assert await used() == (800, 800)
    for _ in range(2):  # the second time changes nothing
        assert await asyncio.to_thread(budgets.raise_now, "a", 500) is True
        assert await used() == (1000, 1000)
    settle(a=450)
    assert await used() == (950, 500)
    await budgets.release(["b"])
    assert await used() == (450, 0)


async def test_what_has_ended_is_not_raised(clean_redis: str) -> None:
    await budgets.reserve(KEY_ID, HOUR, {"a": 300}, seconds=10)
    settle(a=20)
    assert await asyncio.to_thread(budgets.raise_now, "a", 400) is False
    assert await used() == (20, 0)


async def test_a_raised_reservation_of_the_last_window_costs_the_new_one_nothing(clean_redis: str) -> None:
    await budgets.reserve(KEY_ID, TokenBudget(tokens=1000, window=1), {"a": 300}, seconds=10)
    await asyncio.sleep(1.1)
    await budgets.reserve(KEY_ID, HOUR, {"b": 900}, seconds=10)
    assert await asyncio.to_thread(budgets.raise_now, "a", 400) is True
    settle(a=400)
    assert await used() == (900, 900)


async def test_what_nobody_settles_of_a_raised_reservation_is_given_back_when_it_is_due(
    clean_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "_SLACK_SECONDS", 0.0)
    await budgets.reserve(KEY_ID, HOUR, {"a": 300}, seconds=1)
    assert await asyncio.to_thread(budgets.raise_now, "a", 900) is True
    await asyncio.sleep(1.1)
    standing = await budgets.reserve(KEY_ID, HOUR, {"b": 900}, seconds=10)
    assert standing.used == 900


async def test_parallel_raises_take_no_more_than_the_budget(clean_redis: str) -> None:
    names = [f"r{number}" for number in range(50)]
    await budgets.reserve(KEY_ID, HOUR, dict.fromkeys(names, 10), seconds=10)
    raised = await asyncio.gather(*(asyncio.to_thread(budgets.raise_now, name, 60) for name in names))
    assert sum(raised) == 10
    assert await used() == (1000, 1000)


async def test_a_large_budget_is_counted_to_the_token(clean_redis: str) -> None:
    large = TokenBudget(tokens=2**52, window=3600)
    await budgets.reserve(KEY_ID, large, {"a": 2**52 - 1}, seconds=10)
    assert (await budgets.reserve(KEY_ID, large, {"b": 1}, seconds=10)).remaining == 0
    settle(a=2**51 + 1)
    assert await used(large) == (2**51 + 2, 1)


async def test_releasing_without_redis_is_quiet(clean_redis: str, settings: Settings, unused_tcp_port: int) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{unused_tcp_port}/0"
    await budgets.release(["a"])
