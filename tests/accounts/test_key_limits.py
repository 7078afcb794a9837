import time

import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncClient

from accounts.models import ApiKey, Role
from tests.accounts.conftest import bearer, make_key, make_user

pytestmark = pytest.mark.django_db(transaction=True)


async def limits_of(client: AsyncClient, key_id: int, secret: str) -> dict[str, dict[str, int | None]]:
    response = await client.get(f"/api/v1/keys/{key_id}/limits", headers=bearer(secret))
    assert response.status_code == 200, response.text
    return {limit.pop("group"): limit for limit in response.json()["limits"]}


async def test_it_tells_what_a_key_has_used_in_each_group(async_client: AsyncClient, clean_redis: str) -> None:
    secret = await make_key(await make_user())
    watched = await make_key(await make_user(username="bob", role=Role.OPERATOR))
    key = await ApiKey.objects.aget(owner__username="bob")
    for _ in range(3):
        await async_client.get("/api/v1/models", headers=bearer(watched))

    limits = await limits_of(async_client, key.pk, secret)

    models = limits["models"]
    assert (models["limit"], models["used"], models["remaining"], models["window"]) == (1000, 3, 997, 3600)
    assert isinstance(models["reset"], int)
    assert 0 < models["reset"] - time.time() <= 3601
    assert limits["infer"] == {"limit": 1000, "used": 0, "remaining": 1000, "window": 3600, "reset": None}
    assert (await limits_of(async_client, key.pk, secret))["models"]["used"] == 3


async def test_a_revoked_key_has_no_limits_any_more(async_client: AsyncClient, clean_redis: str) -> None:
    secret = await make_key(await make_user())
    await make_key(await make_user(username="bob"))
    key = await ApiKey.objects.aget(owner__username="bob")
    await async_client.delete(f"/api/v1/keys/{key.pk}", headers=bearer(secret))
    assert await limits_of(async_client, key.pk, secret) == {}


async def test_its_budget_is_told_as_well(async_client: AsyncClient, clean_redis: str) -> None:
    secret = await make_key(await make_user())
    key = await sync_to_async(ApiKey.objects.get)()
    await ApiKey.objects.filter(pk=key.pk).aupdate(token_budget=500)
    body = (await async_client.get(f"/api/v1/keys/{key.pk}/limits", headers=bearer(secret))).json()
    assert body["budget"] == {
        "tokens": 500,
        "used": 0,
        "reserved": 0,
        "remaining": 500,
        "window": key.token_budget_window,
        "reset": None,
    }
