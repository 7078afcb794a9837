from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncClient

from accounts.models import Role
from tests.accounts.conftest import bearer, make_key, make_user
from tests.monitoring.records import NOON, record, write

pytestmark = pytest.mark.django_db(transaction=True)
REQUESTS = "/api/v1/requests"


async def listed(client: AsyncClient, key: str, **query: Any) -> list[str]:
    response = await client.get(REQUESTS, query, headers=bearer(key))
    assert response.status_code == 200, response.text
    return [request["request_id"] for request in response.json()["requests"]]


@pytest.fixture
async def keys(clean_redis: str) -> dict[str, str]:
    """An administrator's and a developer's, each with requests."""
    ada, bob = await make_user(), await make_user(username="bob", role=Role.OPERATOR)
    await sync_to_async(write)(
        record(NOON, request_id="req_a1", user=ada),
        record(NOON + 10, request_id="req_b1", user=bob, model="beta"),
        record(NOON + 20, request_id="req_b2", user=bob, state="failed", error_code="INFERENCE_FAILED"),
        record(NOON + 30, request_id="req_nobodys"),
    )
    return {"ada": await make_key(ada), "bob": await make_key(bob)}


async def test_newest_first_and_one_s_own_unless_one_administrates(
    async_client: AsyncClient, keys: dict[str, str]
) -> None:
    assert await listed(async_client, keys["ada"]) == ["req_nobodys", "req_b2", "req_b1", "req_a1"]
    assert await listed(async_client, keys["bob"]) == ["req_b2", "req_b1"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"id": "req_b"}, ["req_b2", "req_b1"]),
        ({"model": "beta"}, ["req_b1"]),
        ({"state": "failed"}, ["req_b2"]),
        ({"error_code": "INFERENCE_FAILED"}, ["req_b2"]),
        ({"user": "ada"}, ["req_a1"]),
        ({"kind": "batch_infer"}, []),
        ({"since": "2026-01-01T12:00:15Z"}, ["req_nobodys", "req_b2"]),
        ({"until": "2026-01-01T12:00:05Z"}, ["req_a1"]),
    ],
)
async def test_it_can_be_searched(
    async_client: AsyncClient, keys: dict[str, str], query: dict[str, str], found: list[str]
) -> None:
    assert await listed(async_client, keys["ada"], **query) == found


async def test_it_is_read_page_by_page(async_client: AsyncClient, keys: dict[str, str]) -> None:
    first = (await async_client.get(REQUESTS, {"limit": 3}, headers=bearer(keys["ada"]))).json()
    assert len(first["requests"]) == 3
    assert await listed(async_client, keys["ada"], cursor=first["next_cursor"]) == ["req_a1"]


async def test_an_entry_has_the_figures_and_no_text(async_client: AsyncClient, keys: dict[str, str]) -> None:
    (entry,) = (await async_client.get(REQUESTS, {"id": "req_a1"}, headers=bearer(keys["ada"]))).json()["requests"]
    assert entry == {
        "request_id": "req_a1",
        "item": 0,
        "kind": "infer",
        "model": "alpha",
        "user": "ada",
        "key": None,
        "state": "completed",
        "finish_reason": "stop",
        "error_code": None,
        "prompt_tokens": 10,
        "tokens_generated": 20,
        "time_to_first_token": entry["time_to_first_token"],
        "total_time": 1.0,
        "submitted_at": "2026-01-01T11:59:59.000Z",
        "ended_at": "2026-01-01T12:00:00.000Z",
    }


async def test_another_user_s_are_refused_and_bad_parameters_named(
    async_client: AsyncClient, keys: dict[str, str]
) -> None:
    assert (await async_client.get(REQUESTS, {"user": "ada"}, headers=bearer(keys["bob"]))).status_code == 403
    for query in ({"state": "odd"}, {"limit": "0"}, {"cursor": "x"}, {"unknown": "1"}, {"since": "yesterday"}):
        response = await async_client.get(REQUESTS, query, headers=bearer(keys["ada"]))
        assert (response.status_code, response.json()["error"]["details"]["field"]) == (400, next(iter(query)))
