"""Which pages of other sites may call the API."""

import pytest
from django.http import HttpResponse
from django.test import AsyncClient
from pytest_django import Settings

from tests.accounts.conftest import bearer, make_key

pytestmark = pytest.mark.django_db(transaction=True)
PROBE = "/api/v1/probe"
APP = "https://app.example.com"


@pytest.fixture
def client(clean_redis: str, settings: Settings) -> AsyncClient:
    settings.ROOT_URLCONF = "tests.accounts.probe"
    return AsyncClient()


async def preflight(client: AsyncClient, origin: str = APP) -> HttpResponse:
    return await client.options(
        PROBE,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type",
        },
    )


async def test_no_other_site_may_call_unless_it_is_named(client: AsyncClient) -> None:
    assert (await preflight(client)).status_code == 401
    response = await client.get(PROBE, headers={**bearer(await make_key()), "Origin": APP})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("Access-Control")]


async def test_a_named_site_may_call_and_read_the_headers(client: AsyncClient, settings: Settings) -> None:
    settings.CORS_ORIGINS = [APP]
    asked = await preflight(client)
    assert asked.status_code == 204
    assert asked["Access-Control-Allow-Origin"] == APP
    assert "POST" in asked["Access-Control-Allow-Methods"]
    assert {"Authorization", "Content-Type", "X-API-Key"} <= set(asked["Access-Control-Allow-Headers"].split(", "))
    answer = await client.get(PROBE, headers={**bearer(await make_key()), "Origin": APP})
    assert answer["Access-Control-Allow-Origin"] == APP
    assert {"X-RateLimit-Remaining", "Retry-After"} <= set(answer["Access-Control-Expose-Headers"].split(", "))
    assert "Origin" in answer["Vary"]
    assert "Access-Control-Allow-Credentials" not in answer.headers
    failed = await client.get(PROBE, headers={"Origin": APP})
    assert (failed.status_code, failed["Access-Control-Allow-Origin"]) == (401, APP)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://app.example.com.evil.example", "null", "http://app.example.com"]
)
async def test_no_unnamed_site_is_let_in_beside_it(client: AsyncClient, settings: Settings, origin: str) -> None:
    settings.CORS_ORIGINS = [APP]
    assert (await preflight(client, origin)).status_code == 401
    answer = await client.get(PROBE, headers={**bearer(await make_key()), "Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert "Origin" in answer["Vary"]


async def test_a_star_lets_every_site_in(client: AsyncClient, settings: Settings) -> None:
    settings.CORS_ORIGINS = ["*"]
    assert (await preflight(client))["Access-Control-Allow-Origin"] == "*"


async def test_pages_are_for_no_other_site(client: AsyncClient, settings: Settings) -> None:
    settings.ROOT_URLCONF = "llama_gpu_site.urls"
    settings.CORS_ORIGINS = ["*"]
    assert "Access-Control-Allow-Origin" not in (await client.get("/admin/login/", headers={"Origin": APP})).headers


async def test_a_plain_options_request_is_no_preflight(client: AsyncClient, settings: Settings) -> None:
    settings.CORS_ORIGINS = [APP]
    answer = await client.options(PROBE, headers={**bearer(await make_key()), "Origin": APP})
    assert (answer.status_code, answer["Access-Control-Allow-Origin"]) == (204, APP)
    assert "GET" in answer["Allow"]
