import time
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError
from django.http import HttpResponse
from django.test import AsyncClient
from django.utils import timezone
from pytest_django import Settings

from accounts import tokens
from accounts.audit import SERVER
from accounts.credentials import REMEMBERED_SECONDS, _look_up, forget_callers, identify
from accounts.freshness import CHECK_SECONDS, forget_mark
from accounts.keys import revoke_api_key
from accounts.models import ApiKey, Role
from common.redis import async_redis
from common.redis import key as redis_key
from tests.accounts.conftest import bearer, make_key, make_user
from tests.conftest import free_port

pytestmark = pytest.mark.django_db(transaction=True)
PROBE = "/api/v1/probe"


async def _call(probe: AsyncClient, method: str, headers: dict[str, str]) -> HttpResponse:
    return await probe.generic(method.upper(), PROBE, b"{}", content_type="application/json", headers=headers)


async def test_it_takes_a_key_by_either_header(probe: AsyncClient) -> None:
    key = await make_key()
    for headers in (bearer(key), {"Authorization": f"bearer  {key}"}, {"X-API-Key": key}):
        response = await probe.get(PROBE, headers=headers)
        assert response.status_code == 200
        assert response.json()["identity"].startswith("key:")


async def test_it_takes_an_access_token(probe: AsyncClient) -> None:
    token, _ = tokens.issue(await make_user())
    response = await probe.get(PROBE, headers=bearer(token))
    assert response.json() == {"success": True, "identity": "user:ada"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer lgpu_unknown_key"},
        {"Authorization": "Bearer a.b.c"},
        {"Authorization": "Bearer \xff\xfe"},
        {"Authorization": "Bearer " + "x" * 100_000},
        {"X-API-Key": "wrong"},
        {"X-API-Key": "\0"},
    ],
)
async def test_it_refuses_missing_and_bad_credentials(probe: AsyncClient, headers: dict[str, str]) -> None:
    response = await probe.get(PROBE, headers=headers)
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "AUTHENTICATION_FAILED"
    assert response["X-RateLimit-Limit"] == "100"


async def test_a_refresh_token_is_no_access_token(probe: AsyncClient) -> None:
    _, refresh = tokens.issue(await make_user())
    assert (await probe.get(PROBE, headers=bearer(refresh))).status_code == 401


async def test_a_new_password_ends_the_tokens_made_before_it(probe: AsyncClient) -> None:
    user = await make_user()
    token, _ = tokens.issue(user)
    user.set_password("another one entirely")
    await user.asave()
    assert (await probe.get(PROBE, headers=bearer(token))).status_code == 401


@pytest.mark.parametrize("change", [{"revoked_at": timezone.now()}, {"expires_at": timezone.now()}])
async def test_a_revoked_or_expired_key_opens_nothing(probe: AsyncClient, change: dict[str, object]) -> None:
    key = await make_key()
    await ApiKey.objects.aupdate(**change)
    assert (await probe.get(PROBE, headers=bearer(key))).status_code == 401


async def test_a_disabled_owners_keys_and_tokens_open_nothing(probe: AsyncClient) -> None:
    user = await make_user()
    credentials = [await make_key(user), tokens.issue(user)[0]]
    user.is_active = False
    await user.asave()
    for credential in credentials:
        assert (await probe.get(PROBE, headers=bearer(credential))).status_code == 401


async def test_a_known_key_costs_no_query_until_something_changes(
    probe: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_ups = []
    monkeypatch.setattr("accounts.credentials._look_up", lambda key: (look_ups.append(key), _look_up(key))[1])
    key = await make_key()
    for _ in range(5):
        assert (await probe.get(PROBE, headers=bearer(key))).status_code == 200
    assert len(look_ups) == 1
    row = await ApiKey.objects.select_related("owner").aget()
    await sync_to_async(revoke_api_key)(key=row, actor=SERVER)
    assert (await probe.get(PROBE, headers=bearer(key))).status_code == 401
    assert len(look_ups) == 2


async def test_what_another_process_changed_is_noticed_within_a_second(
    probe: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await make_key()
    assert (await probe.get(PROBE, headers=bearer(key))).status_code == 200
    await ApiKey.objects.aupdate(revoked_at=timezone.now())
    await async_redis().set(redis_key("accounts", "mark"), "another")
    now = time.monotonic() + CHECK_SECONDS
    monkeypatch.setattr("accounts.freshness.time.monotonic", lambda: now)
    assert (await probe.get(PROBE, headers=bearer(key))).status_code == 401
    assert CHECK_SECONDS < 1


async def test_what_nobody_announced_is_noticed_after_a_while(
    probe: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await make_key()
    assert (await probe.get(PROBE, headers=bearer(key))).status_code == 200
    await ApiKey.objects.aupdate(revoked_at=timezone.now())
    now = time.monotonic() + REMEMBERED_SECONDS
    monkeypatch.setattr("common.short_memory.time.monotonic", lambda: now)
    assert (await probe.get(PROBE, headers=bearer(key))).status_code == 401


async def test_nothing_remembered_counts_without_redis(probe: AsyncClient, settings: Settings) -> None:
    key = await make_key()
    assert await identify(key) is not None
    await ApiKey.objects.aupdate(revoked_at=timezone.now())
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    forget_mark()
    assert await identify(key) is None


async def test_a_change_stands_also_when_it_cannot_be_announced(
    probe: AsyncClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await make_key()
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    await sync_to_async(revoke_api_key)(key=await ApiKey.objects.aget(), actor=SERVER)
    assert (await ApiKey.objects.aget()).state == ApiKey.State.REVOKED
    assert "could not be announced" in caplog.text


async def test_a_database_too_busy_to_note_a_use_refuses_nobody(
    probe: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await make_key()

    def locked(*args: object, **fields: object) -> int:
        raise OperationalError("database is locked")

    monkeypatch.setattr("django.db.models.query.QuerySet.update", locked)
    assert (await probe.get(PROBE, headers=bearer(key))).status_code == 200


async def test_a_remembered_key_ends_when_it_expires(probe: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = timezone.now()
    key = await make_key(expires_at=begun + timedelta(seconds=0.3))
    monkeypatch.setattr("accounts.credentials.timezone.now", lambda: begun)
    assert (await probe.get(PROBE, headers=bearer(key))).status_code == 200
    now = time.monotonic() + 0.3
    monkeypatch.setattr("common.short_memory.time.monotonic", lambda: now)
    later = begun + timedelta(seconds=0.3)
    monkeypatch.setattr("accounts.credentials.timezone.now", lambda: later)
    assert (await probe.get(PROBE, headers=bearer(key))).status_code == 401


async def test_the_last_use_is_written_once_a_minute(probe: AsyncClient) -> None:
    key = await make_key()
    await probe.get(PROBE, headers=bearer(key))
    first = (await ApiKey.objects.aget()).last_used_at
    assert first is not None
    forget_callers()
    await probe.get(PROBE, headers=bearer(key))
    assert (await ApiKey.objects.aget()).last_used_at == first
    await ApiKey.objects.aupdate(last_used_at=first - timedelta(minutes=2))
    forget_callers()
    await probe.get(PROBE, headers=bearer(key))
    assert (await ApiKey.objects.aget()).last_used_at >= first


@pytest.mark.parametrize(
    ("role", "level", "allowed"),
    [
        (Role.ADMINISTRATOR, "admin", ("get", "post", "put")),
        (Role.ADMINISTRATOR, "write", ("get", "post")),
        (Role.ADMINISTRATOR, "read", ("get",)),
        (Role.OPERATOR, "admin", ("get", "post")),
        (Role.VIEWER, "admin", ("get",)),
    ],
)
async def test_a_key_narrows_its_owners_permissions_and_never_widens_them(
    probe: AsyncClient, role: str, level: str, allowed: tuple[str, ...]
) -> None:
    key = await make_key(await make_user(role), permission=level)
    for method in ("get", "post", "put"):
        response = await _call(probe, method, bearer(key))
        assert response.status_code == (200 if method in allowed else 403)
        if response.status_code == 403:
            assert response.json()["error"]["code"] == "PERMISSION_DENIED"


@pytest.mark.parametrize(("setting", "statuses"), [("read", (200, 403, 403)), ("write", (200, 200, 403))])
async def test_an_operator_can_open_anonymous_access(
    probe: AsyncClient, settings: Settings, setting: str, statuses: tuple[int, ...]
) -> None:
    settings.ANONYMOUS_PERMISSION = setting
    answers = [await _call(probe, method, {}) for method in ("get", "post", "put")]
    assert tuple(answer.status_code for answer in answers) == statuses
    assert answers[0].json()["identity"] == "address:127.0.0.1"
    assert (await probe.get(PROBE, headers=bearer("wrong"))).status_code == 401
