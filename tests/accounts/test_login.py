import pytest
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.test import AsyncClient
from pytest_django import Settings

from accounts.models import Role
from tests.accounts.conftest import PASSWORD, bearer, make_key, make_user

pytestmark = pytest.mark.django_db(transaction=True)
LOGIN, REFRESH, LOGOUT, ME = (f"/api/v1/auth/{name}" for name in ("login", "refresh", "logout", "me"))


async def post(client: AsyncClient, url: str, body: object, credential: str = "") -> tuple[int, dict[str, object]]:
    headers = bearer(credential) if credential else {}
    response = await client.post(url, body, content_type="application/json", headers=headers)
    return response.status_code, response.json()


async def log_in(client: AsyncClient, username: str = "ada", password: str = PASSWORD) -> tuple[int, dict[str, object]]:
    return await post(client, LOGIN, {"username": username, "password": password})


async def test_login_answers_as_documented(client: AsyncClient) -> None:
    await make_user(password=PASSWORD)
    status, body = await log_in(client)
    assert status == 200
    assert body["success"] is True
    assert body["expires_in"] == 3600
    assert body["user"] == {"id": "ada", "role": "administrator", "permissions": ["read", "write", "admin"]}
    me = await client.get(ME, headers=bearer(str(body["token"])))
    assert me.json()["user"]["id"] == "ada"
    assert me.json()["credential"] == {"type": "token", "permissions": ["read", "write", "admin"], "tier": "standard"}


async def test_tokens_are_not_kept_by_caches(client: AsyncClient) -> None:
    await make_user(password=PASSWORD)
    body = {"username": "ada", "password": PASSWORD}
    assert (await client.post(LOGIN, body, content_type="application/json"))["Cache-Control"] == "no-store"


async def test_wrong_name_wrong_password_and_disabled_user_get_the_same_answer(client: AsyncClient) -> None:
    await make_user(password=PASSWORD)
    await make_user(username="gone", password=PASSWORD, is_active=False)
    answers = [await log_in(client, *pair) for pair in (("ada", "wrong"), ("nobody", "wrong"), ("gone", PASSWORD))]
    assert {status for status, _ in answers} == {401}
    assert len({str(body["error"]) for _, body in answers}) == 1


@pytest.mark.parametrize("username", ["ada", "nobody", "gone", "keyless"])
async def test_every_failed_login_hashes_exactly_once(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch, username: str
) -> None:
    await make_user(password=PASSWORD)
    await make_user(username="gone", password=PASSWORD, is_active=False)
    await make_user(username="keyless")
    hashes: list[str] = []
    encode, verify = Argon2PasswordHasher.encode, Argon2PasswordHasher.verify
    monkeypatch.setattr(
        Argon2PasswordHasher, "encode", lambda self, *args: (hashes.append("encode"), encode(self, *args))[1]
    )
    monkeypatch.setattr(
        Argon2PasswordHasher, "verify", lambda self, *args: (hashes.append("verify"), verify(self, *args))[1]
    )
    status, _ = await log_in(client, username, "wrong")
    assert status == 401
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "username"),
        ({"username": "ada"}, "password"),
        ({"username": "ada", "password": ""}, "password"),
        ({"username": ["ada"], "password": "x"}, "username"),
        ({"username": "a" * 151, "password": "x"}, "username"),
        ({"username": "ada", "password": "x", "otp": "1"}, "otp"),
        ({"username": "ada\0", "password": "x"}, "username"),
    ],
)
async def test_login_names_the_bad_field(client: AsyncClient, body: object, field: str) -> None:
    status, answer = await post(client, LOGIN, body)
    assert status == 400
    assert answer["error"]["details"]["field"] == field  # type: ignore[index]


async def test_logins_are_throttled_by_username(client: AsyncClient, settings: Settings) -> None:
    settings.LOGIN_ATTEMPTS_PER_MINUTE = 3
    settings.TRUSTED_PROXIES = ["127.0.0.1"]
    await make_user(password=PASSWORD)
    statuses = []
    for attempt in range(4):
        response = await client.post(
            LOGIN,
            {"username": "Ada" if attempt % 2 else "ada", "password": "wrong"},
            content_type="application/json",
            headers={"X-Forwarded-For": f"192.0.2.{attempt}"},
        )
        statuses.append(response.status_code)
    assert statuses == [401, 401, 401, 429]
    assert int(response["Retry-After"]) <= 60
    assert response.json()["error"]["code"] == "RATE_LIMIT_EXCEEDED"


async def test_logins_are_throttled_by_address(client: AsyncClient, settings: Settings) -> None:
    settings.LOGIN_ATTEMPTS_PER_MINUTE = 3
    statuses = [(await log_in(client, f"user{attempt}"))[0] for attempt in range(4)]
    assert statuses == [401, 401, 401, 429]


async def test_refresh_gives_a_new_token(client: AsyncClient) -> None:
    await make_user(Role.VIEWER, password=PASSWORD)
    _, session = await log_in(client)
    status, body = await post(client, REFRESH, {"refresh_token": session["refresh_token"]})
    assert status == 200
    assert body["user"] == {"id": "ada", "role": "viewer", "permissions": ["read"]}
    assert (await client.get(ME, headers=bearer(str(body["token"])))).status_code == 200


@pytest.mark.parametrize("body", [{}, {"refresh_token": ""}, {"refresh_token": 5, "more": 1}])
async def test_refresh_and_logout_name_bad_input(client: AsyncClient, body: object) -> None:
    for url, credential in ((REFRESH, ""), (LOGOUT, await make_key())):
        assert (await post(client, url, body, credential))[0] == 400


@pytest.mark.parametrize("token", ["garbage", "a.b.c"])
async def test_refresh_refuses_what_is_no_token(client: AsyncClient, token: str) -> None:
    assert (await post(client, REFRESH, {"refresh_token": token}))[0] == 401


async def test_refresh_refuses_an_access_token(client: AsyncClient) -> None:
    await make_user(password=PASSWORD)
    _, session = await log_in(client)
    assert (await post(client, REFRESH, {"refresh_token": session["token"]}))[0] == 401


async def test_a_refresh_token_ends_at_logout(client: AsyncClient) -> None:
    await make_user(password=PASSWORD)
    _, session = await log_in(client)
    token, body = str(session["token"]), {"refresh_token": session["refresh_token"]}
    assert (await post(client, LOGOUT, body))[0] == 401
    assert (await post(client, LOGOUT, body, token))[0] == 200
    assert (await post(client, REFRESH, body))[0] == 401
    assert (await post(client, LOGOUT, body, token))[0] == 401


async def test_nobody_logs_another_user_out(client: AsyncClient) -> None:
    await make_user(password=PASSWORD)
    _, session = await log_in(client)
    other = await make_key(await make_user(username="bob"))
    assert (await post(client, LOGOUT, {"refresh_token": session["refresh_token"]}, other))[0] == 401
    assert (await post(client, REFRESH, {"refresh_token": session["refresh_token"]}))[0] == 200


async def test_me_tells_what_a_key_allows(client: AsyncClient) -> None:
    key = await make_key(permission="read", tier="premium")
    body = (await client.get(ME, headers=bearer(key))).json()
    assert body["user"]["permissions"] == ["read", "write", "admin"]
    assert body["credential"] == {"type": "api_key", "permissions": ["read"], "tier": "premium"}


async def test_me_needs_a_user(client: AsyncClient, settings: Settings) -> None:
    assert (await client.get(ME)).status_code == 401
    settings.ANONYMOUS_PERMISSION = "read"
    assert (await client.get(ME)).status_code == 401
