import asyncio
import os
import subprocess
import sys
import time

import pytest
from django.test import AsyncClient
from pytest_django import Settings

from accounts.caller import Caller
from accounts.limits import count, limit_for
from tests.accounts.conftest import bearer, make_key, make_user
from tests.conftest import free_port

PROBE = "/api/v1/probe"


def test_a_thousand_parallel_calls_from_several_processes_admit_exactly_the_limit(redis_url: str) -> None:
    command = [sys.executable, "-m", "tests.accounts.hammer", redis_url, "hammered", "250"]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "llama_gpu_site.settings"}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(4)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum(int(output) for output in outputs) == 100


@pytest.mark.django_db(transaction=True)
async def test_a_door_admits_exactly_the_limit(probe: AsyncClient, settings: Settings) -> None:
    settings.RATE_LIMITS = {"infer": (20, 5)}
    headers = bearer(await make_key())
    answers = await asyncio.gather(*(probe.get(PROBE, headers=headers) for _ in range(60)))
    admitted = [answer for answer in answers if answer.status_code == 200]
    assert sorted(int(answer["X-RateLimit-Remaining"]) for answer in admitted) == list(range(20))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} == {429}
    assert {answer.json()["error"]["code"] for answer in refused} == {"RATE_LIMIT_EXCEEDED"}


@pytest.mark.django_db(transaction=True)
async def test_retry_after_and_reset_agree(probe: AsyncClient, settings: Settings) -> None:
    settings.RATE_LIMITS = {"infer": (1, 1)}
    headers = bearer(await make_key())
    first, second = [await probe.get(PROBE, headers=headers) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 429)
    assert "Retry-After" not in first.headers
    assert first["X-RateLimit-Reset"] == second["X-RateLimit-Reset"]
    assert second["X-RateLimit-Limit"] == "1"
    assert second["X-RateLimit-Remaining"] == "0"
    assert abs(int(second["X-RateLimit-Reset"]) - time.time() - int(second["Retry-After"])) <= 2
    assert 3590 <= int(second["Retry-After"]) <= 3600


async def test_a_window_ends(clean_redis: str) -> None:
    assert (await count("brief", limit=1, window=1)).is_admitted
    assert not (await count("brief", limit=1, window=1)).is_admitted
    await asyncio.sleep(1.1)
    assert (await count("brief", limit=1, window=1)).is_admitted


async def test_refused_requests_do_not_count(clean_redis: str) -> None:
    for _ in range(5):
        await count("kept", limit=2, window=60)
    assert (await count("kept", limit=3, window=60)).is_admitted


@pytest.mark.django_db(transaction=True)
async def test_guessing_keys_is_throttled_by_address(probe: AsyncClient, settings: Settings) -> None:
    settings.RATE_LIMITS = {"infer": (1000, 3)}
    statuses = [(await probe.get(PROBE, headers=bearer(f"guess{i}"))).status_code for i in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    assert (await probe.get(PROBE, headers=bearer(await make_key()))).status_code == 200


@pytest.mark.django_db(transaction=True)
async def test_each_key_and_each_user_has_a_limit_of_its_own(probe: AsyncClient, settings: Settings) -> None:
    settings.RATE_LIMITS = {"infer": (1, 1)}
    user = await make_user()
    for credential in (await make_key(user), await make_key(user)):
        assert (await probe.get(PROBE, headers=bearer(credential))).status_code == 200


@pytest.mark.parametrize(
    ("group", "tier", "expected"),
    [
        ("infer", "standard", 1000),
        ("infer", "premium", 10_000),
        ("batch_infer", "premium", 1000),
        ("stream_infer", "premium", 5000),
        ("models", "premium", 5000),
        ("system", "standard", 6000),
        ("plugins", "premium", 2500),
    ],
)
def test_premium_gets_ten_times_inference_and_five_times_the_rest(group: str, tier: str, expected: int) -> None:
    caller = Caller(identity="key:1", permissions=frozenset(), user_id=1, tier=tier)  # type: ignore[arg-type]
    assert limit_for(group, caller) == expected


def test_an_address_gets_the_unauthenticated_limit() -> None:
    assert limit_for("infer", Caller(identity="address:192.0.2.1", permissions=frozenset())) == 100


@pytest.mark.django_db(transaction=True)
async def test_without_redis_the_answer_is_503(probe: AsyncClient, settings: Settings) -> None:
    headers = bearer(await make_key())
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    response = await probe.get(PROBE, headers=headers)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "BACKEND_UNAVAILABLE"
    assert int(response["Retry-After"]) > 0
