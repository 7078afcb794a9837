import json
import re

import pytest
from django.test import AsyncClient, Client
from pytest_django import Settings

from common.redis import sync_redis
from tests.accounts.conftest import make_key

CRASH = "/api/v1/crash"
PROBE = "/api/v1/probe"


@pytest.fixture
def client(clean_redis: str, settings: Settings) -> AsyncClient:
    settings.ROOT_URLCONF = "tests.accounts.probe"
    return AsyncClient(raise_request_exception=False)


def code_of(response: object) -> str:
    body = response.json()  # type: ignore[attr-defined]
    assert set(body) == {"success", "error", "request_id", "timestamp"}
    assert body["success"] is False
    assert set(body["error"]) == {"code", "message", "details"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])
    assert body["request_id"] == response["X-Request-ID"]  # type: ignore[index]
    return str(body["error"]["code"])


@pytest.mark.parametrize(
    "path", ["/api/v1/nothing", "/api/v1/nothing/", "/api", "/api/", "/api/v2/infer", "/api/v1//x"]
)
async def test_an_unknown_route_under_api_fails_in_our_shape(client: AsyncClient, path: str) -> None:
    response = await client.post(path, b"{}", content_type="application/json")
    assert response.status_code == 404
    assert code_of(response) == "NOT_FOUND"
    assert response["X-API-Version"] == "1.0"


async def test_pages_fail_as_pages(client: AsyncClient) -> None:
    response = await client.get("/nothing")
    assert response.status_code == 404
    assert response["Content-Type"].startswith("text/html")


async def test_an_inbound_request_id_is_kept_if_well_formed(client: AsyncClient) -> None:
    for sent in ("abc-DEF_123", "x" * 64):
        response = await client.get("/api/v1/nothing", headers={"X-Request-ID": sent})
        assert response["X-Request-ID"] == sent
    for sent in ("x" * 65, "a b", "a\tb", "ü", "a;b", ""):
        response = await client.get("/api/v1/nothing", headers={"X-Request-ID": sent})
        assert re.fullmatch(r"req_[A-Za-z0-9_-]{20,}", response["X-Request-ID"])


@pytest.mark.parametrize(("version", "status"), [("1", 404), ("1.0", 404), ("2", 400), ("", 400), ("1.0.0", 400)])
async def test_the_requested_version_is_checked(client: AsyncClient, version: str, status: int) -> None:
    response = await client.get("/api/v1/nothing", headers={"X-API-Version": version})
    assert response.status_code == status
    if status == 400:
        assert code_of(response) == "INVALID_INPUT"
        assert response.json()["error"]["details"]["supported"] == ["1", "1.0"]


async def test_an_unknown_host_is_refused(client: AsyncClient) -> None:
    response = await client.get("/api/v1/nothing", headers={"Host": "evil.example"})
    assert response.status_code == 400
    assert code_of(response) == "INVALID_INPUT"


async def test_a_crash_leaks_nothing(client: AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    response = await client.get(CRASH)
    assert response.status_code == 500
    assert code_of(response) == "INTERNAL_ERROR"
    assert b"secret" not in response.content
    assert "a secret of ours" in caplog.text


@pytest.mark.django_db(transaction=True)
class TestADoor:
    async def test_it_takes_both_forms_of_its_path(self, client: AsyncClient) -> None:
        headers = {"X-API-Key": await make_key()}
        for path in (PROBE, PROBE + "/"):
            response = await client.post(path, {"kept": 1}, content_type="application/json", headers=headers)
            assert response.status_code == 200
            assert response.json()["received"] == {"kept": 1}

    async def test_it_refuses_other_methods(self, client: AsyncClient) -> None:
        response = await client.delete(PROBE, headers={"X-API-Key": await make_key()})
        assert response.status_code == 405
        assert code_of(response) == "METHOD_NOT_ALLOWED"
        assert "GET" in response["Allow"]

    @pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
    async def test_it_refuses_other_content_types(self, client: AsyncClient, content_type: str) -> None:
        headers = {"X-API-Key": await make_key()}
        response = await client.post(PROBE, b"{}", content_type=content_type, headers=headers)
        assert response.status_code == 415
        assert code_of(response) == "UNSUPPORTED_MEDIA_TYPE"

    @pytest.mark.parametrize(
        "body", [b"{", b"[]", b'{"a": NaN}', b'{"a": 1, "a": 1}', b"[" * 50_000, b'{"a": "\\u0000"}']
    )
    async def test_it_refuses_nasty_json(self, client: AsyncClient, body: bytes) -> None:
        headers = {"X-API-Key": await make_key()}
        response = await client.post(PROBE, body, content_type="application/json", headers=headers)
        assert response.status_code == 400
        assert code_of(response) == "INVALID_INPUT"

    async def test_an_answer_tells_its_length(self, client: AsyncClient) -> None:
        response = await client.get(PROBE, headers={"X-API-Key": await make_key()})
        assert int(response["Content-Length"]) == len(response.content)


async def test_too_large_a_body_is_refused_before_anything_else(client: AsyncClient, settings: Settings) -> None:
    settings.MAX_BODY_BYTES = 1000
    response = await client.post(PROBE, b" " * 1001, content_type="application/json")
    assert response.status_code == 413
    assert code_of(response) == "PAYLOAD_TOO_LARGE"
    assert response.json()["error"]["details"] == {"max_bytes": 1000}


@pytest.mark.parametrize("length", ["abc", "-5", "1e3"])
async def test_a_senseless_length_is_refused(client: AsyncClient, length: str) -> None:
    response = await client.post(PROBE, b"{}", content_type="application/json", headers={"Content-Length": length})
    assert response.status_code == 400
    assert code_of(response) == "INVALID_INPUT"


@pytest.mark.django_db
def test_the_middlewares_work_without_an_event_loop_too(client: AsyncClient) -> None:
    response = Client().get("/api/v1/nothing/")
    assert response.status_code == 404
    assert json.loads(response.content)["error"]["code"] == "NOT_FOUND"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"X-API-Version": "2"}, b"{}", 400),
        ({"Host": "evil.example"}, b"{}", 400),
        ({"Content-Length": "abc"}, b"{}", 400),
        ({}, b" " * 2000, 413),
        ({"Content-Type": "text/plain"}, b"{}", 415),
    ],
)
async def test_what_is_refused_whatever_it_asks_for_counts_all_the_same(
    client: AsyncClient, settings: Settings, headers: dict[str, str], body: bytes, status: int
) -> None:
    settings.MAX_BODY_BYTES = 1000
    settings.RATE_LIMITS = {"infer": (2, 2, 3600)}
    wanted = status if status != 415 else 401
    for credential, expected in ((await make_key(), status), ("", wanted), ("a guess", wanted)):
        sync_redis().flushdb()
        sent = {"Content-Type": "application/json", **headers, **({"X-API-Key": credential} if credential else {})}
        answers = [await client.post(PROBE, body, content_type=sent["Content-Type"], headers=sent) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [expected, expected, 429]
        assert [answer["X-RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
        assert "Retry-After" in answers[2].headers


async def test_a_refusal_where_there_is_no_door_stays_one(client: AsyncClient) -> None:
    response = await client.get("/v1/nothing", headers={"X-API-Version": "2"})
    assert response.status_code == 400
    assert "X-RateLimit-Limit" not in response.headers


async def test_answers_of_the_api_are_nothing_for_browsers_to_run_show_or_keep(client: AsyncClient) -> None:
    for path in ("/api/v1/nothing", "/api/v1/crash"):
        response = await client.get(path)
        assert response["X-Content-Type-Options"] == "nosniff"
        assert response["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert response["Cache-Control"] == "no-store"
