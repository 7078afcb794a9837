"""Usage by day, key and model: added up once, and shown to whom it belongs."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.http import HttpResponse
from django.test import AsyncClient

from accounts import budgets, usage
from accounts.models import ApiKey, DailyUsage, Role
from tests.accounts.conftest import bearer, make_key, make_user

pytestmark = pytest.mark.django_db(transaction=True)
URL = "/api/v1/usage"


def today() -> date:
    return datetime.now(UTC).date()


def spent(
    state: str = "completed", *, ago: int = 0, user_id: int = 1, key_id: int = 1, model: str = "m"
) -> usage.Spent:
    day = today() - timedelta(days=ago)
    account = usage.Account(day, user_id, key_id, model)
    return usage.Spent(account, state, prompt_tokens=10, completion_tokens=5, cached_tokens=2)


async def add(*requests: usage.Spent) -> None:
    await sync_to_async(usage.add)(requests)


async def ask(client: AsyncClient, credential: str, **query: object) -> HttpResponse:
    return await client.get(URL, query, headers=bearer(credential))


def test_requests_are_added_up_by_day_key_and_model() -> None:
    usage.add([spent(), spent("failed"), spent(key_id=2), spent(model="n"), spent(ago=1)])
    usage.add([spent("cancelled")])
    row = DailyUsage.objects.get(day=today(), user_id=1, key_id=1, model="m")
    assert (row.requests, row.completed, row.failed, row.cancelled) == (3, 1, 1, 1)
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens) == (30, 15, 6)
    assert DailyUsage.objects.count() == 4


def test_parallel_writers_lose_nothing() -> None:
    def write(number: int) -> None:
        usage.add([spent(key_id=number % 3), spent(key_id=(number + 1) % 3)])
        connection.close()

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write, range(40)))
    assert DailyUsage.objects.count() == 3
    assert usage.total(DailyUsage.objects.all())["requests"] == 80


async def test_it_tells_your_own_usage(client: AsyncClient) -> None:
    ada, bob = await make_user(Role.OPERATOR), await make_user(Role.OPERATOR, username="bob")
    key = await make_key(ada)
    row = await ApiKey.objects.aget()
    await add(spent(user_id=ada.pk, key_id=row.pk), spent(user_id=ada.pk, key_id=0), spent(user_id=bob.pk, key_id=99))
    answer = await ask(client, key)
    assert answer.status_code == 200
    body = answer.json()
    counts = {"requests": 1, "completed": 1, "failed": 0, "cancelled": 0}
    tokens = {"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 2, "total_tokens": 15}
    named = {"id": row.pk, "name": "test", "prefix": row.prefix}
    common = {"day": str(today()), "user": "ada", "model": "m", **counts, **tokens}
    assert body["usage"] == [{**common, "key": None}, {**common, "key": named}]
    assert body["total"] == {name: 2 * count for name, count in {**counts, **tokens}.items()}
    assert body["total_entries"] == 2
    assert body["budget"] is None


async def test_an_administrator_sees_everybodys_and_can_pick(client: AsyncClient) -> None:
    ada = await make_user()
    key = await make_key(ada)
    bob = await make_user(Role.VIEWER, username="bob")
    await add(
        spent(user_id=bob.pk, key_id=99),
        spent(user_id=ada.pk),
        spent(user_id=0, key_id=0),
        spent(user_id=bob.pk + 1000),
    )
    assert (await ask(client, key)).json()["total_entries"] == 4
    (row,) = (await ask(client, key, user="bob")).json()["usage"]
    assert (row["user"], row["key"]) == ("bob", {"id": 99, "name": None, "prefix": None})
    assert (await ask(client, key, user="ada")).json()["total_entries"] == 1
    assert (await ask(client, key, user="nobody")).status_code == 400
    assert {row["user"] for row in (await ask(client, key)).json()["usage"]} == {"ada", "bob", None}


async def test_nobody_else_sees_anothers(client: AsyncClient) -> None:
    ada = await make_user(Role.OPERATOR)
    bob = await make_user(Role.OPERATOR, username="bob")
    await add(spent(user_id=bob.pk, key_id=7))
    key = await make_key(ada)
    assert (await ask(client, key, user="bob")).status_code == 403
    assert (await ask(client, key, user="nobody")).status_code == 403
    assert (await ask(client, key, key=7)).json()["usage"] == []
    narrowed = await make_key(await make_user(username="root"), permission="read")
    assert (await ask(client, narrowed)).json()["usage"] == []
    assert (await client.get(URL)).status_code == 401


async def test_it_can_be_narrowed_by_day_key_and_model_and_paged(client: AsyncClient) -> None:
    key = await make_key()
    await add(spent(), spent(ago=1), spent(ago=29), spent(ago=40), spent(key_id=2), spent(model="n"))
    assert (await ask(client, key)).json()["total_entries"] == 5
    assert (await ask(client, key, since=today() - timedelta(days=50))).json()["total_entries"] == 6
    yesterday = today() - timedelta(days=1)
    (row,) = (await ask(client, key, since=yesterday, until=yesterday)).json()["usage"]
    assert row["day"] == str(yesterday)
    assert (await ask(client, key, key=2)).json()["total_entries"] == 1
    assert (await ask(client, key, model="n")).json()["total_entries"] == 1
    page = (await ask(client, key, limit=2, offset=4)).json()
    assert (len(page["usage"]), page["total_entries"], page["total"]["requests"]) == (1, 5, 5)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-02-02", "until": "2026-02-01"}, "since"),
        ({"since": "2020-01-01", "until": "2026-02-01"}, "since"),
        ({"key": "x"}, "key"),
        ({"limit": 0}, "limit"),
        ({"limit": 10_001}, "limit"),
        ({"color": "red"}, "color"),
    ],
)
async def test_it_names_the_bad_parameter(client: AsyncClient, query: dict[str, object], field: str) -> None:
    answer = await ask(client, await make_key(), **query)
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["field"] == field


async def test_it_tells_where_the_keys_budget_stands(client: AsyncClient) -> None:
    key = await make_key()
    await ApiKey.objects.aupdate(token_budget=1000, token_budget_window=60)
    row = await ApiKey.objects.aget()
    body = (await ask(client, key)).json()["budget"]
    assert body == {"tokens": 1000, "used": 0, "reserved": 0, "remaining": 1000, "window": 60, "reset": None}
    assert row.budget is not None
    standing = await budgets.reserve(row.pk, row.budget, {"a": 300}, seconds=5)
    body = (await ask(client, key)).json()["budget"]
    assert (body["used"], body["reserved"], body["remaining"]) == (300, 300, 700)
    assert body["reset"] == standing.reset
