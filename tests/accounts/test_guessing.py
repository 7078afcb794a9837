"""Guessing at keys is slowed by address, without keeping out those who share the address."""

import asyncio
import time
from datetime import timedelta
from typing import Any, cast

import pytest
from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.test import AsyncClient
from django.utils import timezone
from pytest_django import Settings

from accounts import credentials, tokens
from accounts.credentials import forget_callers
from accounts.freshness import announce_change
from accounts.guessing import forget_what_was_told
from accounts.models import ApiKey
from common.redis import key as redis_key
from common.redis import sync_redis
from common.redis_line import RedisLine
from tests.accounts.conftest import bearer, make_key, make_user

pytestmark = pytest.mark.django_db(transaction=True)
PROBE = "/api/v1/probe"
MOST = 3


@pytest.fixture
def door(probe: AsyncClient, settings: Settings) -> AsyncClient:
    settings.BAD_CREDENTIALS_PER_MINUTE = MOST
    return probe


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the database is asked about."""
    asked: list[str] = []
    really = credentials._look_up
    monkeypatch.setattr(credentials, "_look_up", lambda credential: (asked.append(credential), really(credential))[1])
    return asked


async def come(door: AsyncClient, credential: str) -> HttpResponse:
    return await door.get(PROBE, headers=bearer(credential))


async def guess(door: AsyncClient, times: int = MOST) -> list[int]:
    return [(await come(door, f"guess{number}")).status_code for number in range(times)]


def in_another_process() -> None:
    """Forget what only this process knows."""
    forget_callers()
    forget_what_was_told()


async def test_after_too_many_bad_ones_nothing_unknown_is_looked_up(door: AsyncClient, looked_up: list[str]) -> None:
    assert await guess(door, 5) == [401, 401, 401, 429, 429]
    right = await make_key()
    refusal = await come(door, right)
    assert refusal.status_code == 429
    assert refusal.json()["error"]["code"] == "RATE_LIMIT_EXCEEDED"
    assert refusal["X-RateLimit-Limit"] == str(MOST)
    assert refusal["X-RateLimit-Remaining"] == "0"
    assert 1 <= int(refusal["Retry-After"]) <= 60
    assert abs(int(refusal["X-RateLimit-Reset"]) - time.time() - int(refusal["Retry-After"])) <= 2
    assert looked_up == ["guess0", "guess1", "guess2"]


async def test_parallel_guesses_are_counted_to_the_last_one(door: AsyncClient) -> None:
    answers = await asyncio.gather(*(come(door, f"guess{number}") for number in range(20)))
    assert sorted(answer.status_code for answer in answers) == [401] * MOST + [429] * 17


async def test_all_groups_and_headers_count_together(door: AsyncClient) -> None:
    await guess(door, 2)
    assert (await door.get(PROBE, headers={"X-API-Key": "guess2"})).status_code == 401
    assert (await come(door, "guess3")).status_code == 429


async def test_a_known_key_from_the_same_address_goes_on(door: AsyncClient, looked_up: list[str]) -> None:
    key = await make_key()
    assert (await come(door, key)).status_code == 200
    await guess(door, MOST + 1)
    assert (await come(door, key)).status_code == 200
    await sync_to_async(announce_change)()  # nothing remembered counts any more
    assert (await come(door, key)).status_code == 200
    assert looked_up.count(key) == 2


async def test_a_key_that_has_worked_passes_in_every_process(door: AsyncClient) -> None:
    key = await make_key()
    assert (await come(door, key)).status_code == 200
    await guess(door)
    in_another_process()
    assert (await come(door, key)).status_code == 200
    await ApiKey.objects.aupdate(revoked_at=timezone.now())
    in_another_process()
    assert (await come(door, key)).status_code == 401


async def test_who_signs_in_meanwhile_is_let_in(door: AsyncClient) -> None:
    await guess(door)
    token, refresh = tokens.issue(await make_user())
    assert (await come(door, token)).status_code == 200
    assert (await come(door, refresh)).status_code == 401  # it opens nothing, but nobody has guessed it
    forged = ".".join([*token.split(".")[:2], "x" * 43])
    assert (await come(door, forged)).status_code == 429


async def test_keys_that_are_over_are_no_guesses(door: AsyncClient) -> None:
    user = await make_user()
    expired = await make_key(user, expires_at=timezone.now() - timedelta(seconds=1))
    revoked = await make_key(user)
    await ApiKey.objects.filter(expires_at=None).aupdate(revoked_at=timezone.now())
    for credential in (expired, revoked) * MOST:
        assert (await come(door, credential)).status_code == 401
    assert (await come(door, await make_key(user))).status_code == 200


async def test_each_address_has_its_own_count(door: AsyncClient, settings: Settings) -> None:
    settings.TRUSTED_PROXIES = ["127.0.0.1"]
    key = await make_key()
    for address, status in (("192.0.2.1", 429), ("192.0.2.2", 200), ("2001:db8::1", 200)):
        headers = {"X-Forwarded-For": address}
        if status == 429:
            for number in range(MOST):
                await door.get(PROBE, headers={**headers, **bearer(f"guess{number}")})
        in_another_process()
        assert (await door.get(PROBE, headers={**headers, **bearer(key)})).status_code == status


async def test_the_next_minute_is_a_new_one(door: AsyncClient) -> None:
    assert await guess(door, MOST + 1) == [401] * MOST + [429]
    counter = redis_key("limit", "guesses:127.0.0.1")
    assert 0 < cast("int", sync_redis().pttl(counter)) <= 60_000
    sync_redis().pexpire(counter, 0)  # as when its time is over
    assert (await come(door, await make_key())).status_code == 200


async def test_a_known_key_costs_one_step_in_redis(door: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accounts.freshness.CHECK_SECONDS", 60)  # else its look at the mark, once in half a second
    key = await make_key()
    await come(door, key)
    commands: list[str] = []
    really = RedisLine.execute

    async def noted(line: RedisLine, *arguments: Any, seconds: float = 0.0) -> Any:
        commands.append(str(arguments[0]))
        return await really(line, *arguments, seconds=seconds)

    monkeypatch.setattr(RedisLine, "execute", noted)
    for _ in range(5):
        assert (await come(door, key)).status_code == 200
    assert commands == ["EVALSHA"] * 5  # its limit's
