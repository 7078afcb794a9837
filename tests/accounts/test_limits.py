import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.test import AsyncClient
from django.urls import URLPattern, URLResolver, get_resolver
from pytest_django import Settings

from accounts.caller import Caller
from accounts.doors import Door
from accounts.limits import count, limit_for
from tests.accounts.conftest import bearer, make_key, make_user
from tests.conftest import free_port

PROBE = "/api/v1/probe"
# Doors that take no part in the limits: probes of machines, and the documentation.
NOT_COUNTED = {"Health", "Live", "Ready", "ApiDocs", "ApiSchema"}


def all_doors(patterns: list[URLPattern | URLResolver] | None = None) -> Iterator[type[Door]]:
    """The door of every address of the site."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        if isinstance(pattern, URLResolver):
            yield from all_doors(pattern.url_patterns)
        elif isinstance(view := getattr(pattern.callback, "view_class", None), type) and issubclass(view, Door):
            yield view


def test_a_thousand_parallel_calls_from_several_processes_admit_exactly_the_limit(redis_url: str) -> None:
    command = [sys.executable, "-m", "tests.accounts.hammer", redis_url, "hammered", "250"]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "llama_gpu_site.settings"}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(4)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum(int(output) for output in outputs) == 100


@pytest.mark.django_db(transaction=True)
async def test_a_door_admits_exactly_the_limit(probe: AsyncClient, settings: Settings) -> None:
    settings.RATE_LIMITS = {"infer": (20, 5, 3600)}
    headers = bearer(await make_key())
    answers = await asyncio.gather(*(probe.get(PROBE, headers=headers) for _ in range(60)))
    admitted = [answer for answer in answers if answer.status_code == 200]
    assert sorted(int(answer["X-RateLimit-Remaining"]) for answer in admitted) == list(range(20))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} == {429}
    assert {answer.json()["error"]["code"] for answer in refused} == {"RATE_LIMIT_EXCEEDED"}


@pytest.mark.django_db(transaction=True)
async def test_retry_after_and_reset_agree(probe: AsyncClient, settings: Settings) -> None:
    settings.RATE_LIMITS = {"infer": (1, 1, 3600)}
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
async def test_bad_credentials_count_against_the_address(probe: AsyncClient, settings: Settings) -> None:
    settings.RATE_LIMITS = {"infer": (1000, 3, 3600)}
    statuses = [(await probe.get(PROBE, headers=bearer(f"guess{i}"))).status_code for i in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    assert (await probe.get(PROBE, headers=bearer(await make_key()))).status_code == 200  # the key's own limit


@pytest.mark.django_db(transaction=True)
async def test_each_key_and_each_user_has_a_limit_of_its_own(probe: AsyncClient, settings: Settings) -> None:
    settings.RATE_LIMITS = {"infer": (1, 1, 3600)}
    user = await make_user()
    for credential in (await make_key(user), await make_key(user)):
        assert (await probe.get(PROBE, headers=bearer(credential))).status_code == 200


# Group, standard, premium, without credentials.
TABLE = [
    ("infer", 1000, 10_000, 100),
    ("batch_infer", 100, 1000, 10),
    ("stream_infer", 500, 5000, 50),
    ("system", 6000, 30_000, 600),
    ("models", 1000, 5000, 100),
    ("plugins", 500, 2500, 50),
    ("jobs", 6000, 30_000, 600),
    ("accounts", 1000, 5000, 100),
    ("auth", 6000, 30_000, 600),
]


@pytest.mark.parametrize(("group", "standard", "premium", "unauthenticated"), TABLE)
def test_the_limits_are_those_of_the_table(group: str, standard: int, premium: int, unauthenticated: int) -> None:
    caller = Caller(identity="key:1", permissions=frozenset(), user_id=1)
    assert limit_for(group, caller) == standard
    assert limit_for(group, replace(caller, tier="premium")) == premium
    assert limit_for(group, Caller(identity="address:192.0.2.1", permissions=frozenset())) == unauthenticated


def test_the_table_is_complete_and_in_the_docs() -> None:
    assert [row[0] for row in TABLE] == list(django_settings.RATE_LIMITS)
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    for row in TABLE:
        assert re.search(r"\| `{}` \|[^|]*\| {} \| {} \| {} \|".format(*row), page), row


def test_every_door_counts_in_a_group_that_exists() -> None:
    doors = list(all_doors())
    assert len(doors) > 10
    for door in doors:
        assert door.limit_group is None or door.limit_group in django_settings.RATE_LIMITS
    assert {door.__name__ for door in doors if door.limit_group is None} <= NOT_COUNTED


@pytest.mark.django_db(transaction=True)
async def test_tiers_and_windows_come_from_the_settings(probe: AsyncClient, settings: Settings) -> None:
    settings.RATE_LIMITS = {"infer": (4, 1, 1)}
    settings.TIERS = {**settings.TIERS, "partner": (2.5, 1.0, False)}
    headers = bearer(await make_key(tier="partner"))
    first = await probe.get(PROBE, headers=headers)
    assert first["X-RateLimit-Limit"] == "10"
    assert int(first["X-RateLimit-Reset"]) - time.time() <= 1
    assert [(await probe.get(PROBE, headers=headers)).status_code for _ in range(10)][-1] == 429
    await asyncio.sleep(1.1)
    assert (await probe.get(PROBE, headers=headers)).status_code == 200


@pytest.mark.django_db(transaction=True)
async def test_a_tier_that_the_settings_lost_is_the_standard_one(probe: AsyncClient) -> None:
    answer = await probe.get(PROBE, headers=bearer(await make_key(tier="gone")))
    assert answer["X-RateLimit-Limit"] == "1000"


@pytest.mark.django_db(transaction=True)
async def test_without_redis_the_answer_is_503(probe: AsyncClient, settings: Settings) -> None:
    headers = bearer(await make_key())
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    response = await probe.get(PROBE, headers=headers)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "BACKEND_UNAVAILABLE"
    assert int(response["Retry-After"]) > 0
