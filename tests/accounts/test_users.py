import threading
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.http import HttpResponse
from django.test import AsyncClient

from accounts import services
from accounts.audit import SERVER
from accounts.models import AuditEntry, Role, User
from common.errors import Conflict, InvalidInput
from tests.accounts.conftest import PASSWORD, bearer, make_key, make_user

pytestmark = pytest.mark.django_db(transaction=True)
USERS = "/api/v1/users"
NEW = {"username": "bob", "password": PASSWORD, "role": "operator", "email": "bob@example.org"}


@pytest.fixture
async def headers() -> dict[str, str]:
    return bearer(await make_key())


async def send(client: AsyncClient, method: str, path: str, body: Any, headers: dict[str, str]) -> HttpResponse:
    call = getattr(client, method)
    return await call(path, body, content_type="application/json", headers=headers)


async def test_a_user_is_made_and_can_sign_in(client: AsyncClient, headers: dict[str, str]) -> None:
    answer = await send(client, "post", USERS, NEW, headers)
    assert answer.status_code == 201
    user = answer.json()["user"]
    assert {**user, "created_at": ""} == {
        "id": "bob",
        "role": "operator",
        "permissions": ["read", "write"],
        "email": "bob@example.org",
        "active": True,
        "created_at": "",
        "last_login_at": None,
        "active_keys": 0,
    }
    login = await client.post(
        "/api/v1/auth/login", {"username": "bob", "password": PASSWORD}, content_type="application/json"
    )
    assert login.status_code == 200
    shown = await client.get(f"{USERS}/bob", headers=headers)
    assert shown.json()["user"]["last_login_at"] is not None


async def test_a_user_without_a_password_has_keys_alone(client: AsyncClient, headers: dict[str, str]) -> None:
    assert (await send(client, "post", USERS, {"username": "robot"}, headers)).status_code == 201
    user = await User.objects.aget(username="robot")
    assert (user.role, user.has_usable_password()) == ("viewer", False)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"username": ""}, "username"),
        ({"username": "b b"}, "username"),
        ({"username": "a" * 151}, "username"),
        ({"username": "ADA"}, "username"),
        ({"role": "king"}, "role"),
        ({"email": "nowhere"}, "email"),
        ({"password": "short"}, "password"),
        ({"password": "bob@example.org"}, "password"),
        ({"password": "password123"}, "password"),
        ({"is_staff": True}, "is_staff"),
    ],
)
async def test_a_bad_user_is_refused_by_field(
    client: AsyncClient, headers: dict[str, str], change: dict[str, object], field: str
) -> None:
    answer = await send(client, "post", USERS, {**NEW, "username": "bob1", **change}, headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["field"] == field
    assert await User.objects.acount() == 1


async def test_users_are_listed_searched_and_paged(client: AsyncClient, headers: dict[str, str]) -> None:
    for name in ("carl", "dora", "eve"):
        await make_user(Role.VIEWER, name, is_active=name != "eve")
    seen, cursor = [], None
    while cursor is not None or not seen:
        query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await client.get(USERS, query, headers=headers)).json()
        seen += [user["id"] for user in page["users"]]
        cursor = page["next_cursor"]
    assert seen == ["ada", "carl", "dora", "eve"]

    async def found(**query: object) -> list[str]:
        return [user["id"] for user in (await client.get(USERS, query, headers=headers)).json()["users"]]

    assert await found(search="OR") == ["dora"]
    assert await found(role="administrator") == ["ada"]
    assert await found(active="false") == ["eve"]
    assert (await client.get(USERS, headers=headers)).json()["users"][0]["active_keys"] == 1


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 1001}, {"cursor": "x"}, {"cursor": "YWZ0ZXI6LTE"}, {"no": 1}]
)
async def test_a_bad_page_is_refused_by_field(
    client: AsyncClient, headers: dict[str, str], query: dict[str, object]
) -> None:
    answer = await client.get(USERS, query, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["field"] == next(iter(query))


async def test_a_role_change_and_disabling_act_on_keys_and_tokens(client: AsyncClient, headers: dict[str, str]) -> None:
    bob = await make_user(Role.OPERATOR, "bob", PASSWORD)
    login = {"username": "bob", "password": PASSWORD}
    token = (await client.post("/api/v1/auth/login", login, content_type="application/json")).json()["token"]
    key = await make_key(bob, permission="write")

    async def infer() -> list[int]:
        return [
            (await send(client, "post", "/api/v1/infer", {}, bearer(credential))).status_code
            for credential in (key, token)
        ]

    assert await infer() == [400, 400]
    answer = await send(client, "patch", f"{USERS}/bob", {"role": "viewer"}, headers)
    assert answer.json()["user"]["permissions"] == ["read"]
    assert await infer() == [403, 403]
    assert (await send(client, "patch", f"{USERS}/bob", {"active": False}, headers)).json()["user"]["active"] is False
    assert await infer() == [401, 401]
    await send(client, "patch", f"{USERS}/bob", {"active": True, "role": "operator"}, headers)
    assert await infer() == [400, 400]


async def test_a_set_password_ends_sessions_and_keeps_keys(client: AsyncClient, headers: dict[str, str]) -> None:
    bob = await make_user(Role.VIEWER, "bob", PASSWORD)
    login = {"username": "bob", "password": PASSWORD}
    token = (await client.post("/api/v1/auth/login", login, content_type="application/json")).json()["token"]
    key = await make_key(bob)
    easy = await send(client, "put", f"{USERS}/bob/password", {"password": "1234567890"}, headers)
    assert easy.json()["error"]["details"]["field"] == "password"
    new = "an entirely different one"
    assert (await send(client, "put", f"{USERS}/bob/password", {"password": new}, headers)).status_code == 200
    statuses = [(await client.get("/api/v1/auth/me", headers=bearer(item))).status_code for item in (token, key)]
    assert statuses == [401, 200]
    assert await (await User.objects.aget(username="bob")).acheck_password(new)


async def test_ones_own_password_takes_the_present_one(client: AsyncClient) -> None:
    await make_user(Role.VIEWER, "bob", PASSWORD)
    login = {"username": "bob", "password": PASSWORD}
    token = (await client.post("/api/v1/auth/login", login, content_type="application/json")).json()["token"]
    new = "an entirely different one"
    path = "/api/v1/auth/password"
    wrong = await send(client, "post", path, {"current_password": "no", "new_password": new}, bearer(token))
    assert (wrong.status_code, wrong.json()["error"]["details"]["field"]) == (400, "current_password")
    easy = await send(client, "post", path, {"current_password": PASSWORD, "new_password": "bob"}, bearer(token))
    assert (easy.status_code, easy.json()["error"]["details"]["field"]) == (400, "new_password")
    answer = await send(client, "post", path, {"current_password": PASSWORD, "new_password": new}, bearer(token))
    assert answer.status_code == 200
    fresh = answer.json()["token"]
    statuses = [(await client.get("/api/v1/auth/me", headers=bearer(item))).status_code for item in (token, fresh)]
    assert statuses == [401, 200]


async def test_a_deleted_users_keys_are_gone_and_the_audit_stays(client: AsyncClient, headers: dict[str, str]) -> None:
    key = await make_key(await make_user(Role.VIEWER, "bob"))
    assert (await client.delete(f"{USERS}/bob", headers=headers)).status_code == 200
    assert (await client.get("/api/v1/models", headers=bearer(key))).status_code == 401
    assert (await client.get(f"{USERS}/bob", headers=headers)).status_code == 404
    entry = await AuditEntry.objects.aget(action="user.deleted")
    assert (entry.actor, entry.target_id, entry.changes["role"]) == ("ada", "bob", {"before": "viewer", "after": None})
    assert entry.changes["keys"]["before"][0].startswith("test (")


@pytest.mark.parametrize(
    ("method", "body"), [("patch", {"role": "viewer"}), ("patch", {"active": False}), ("delete", None)]
)
async def test_the_last_administrator_stays(
    client: AsyncClient, headers: dict[str, str], method: str, body: object
) -> None:
    await make_user(Role.ADMINISTRATOR, "idle", is_active=False)
    answer = await send(client, method, f"{USERS}/ada", body, headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "CONFLICT")
    await make_user(Role.ADMINISTRATOR, "bob")
    assert (await send(client, method, f"{USERS}/ada", body, headers)).status_code == 200


def test_of_administrators_who_leave_at_the_same_time_one_stays() -> None:
    users = [User.objects.create_user(name, role=Role.ADMINISTRATOR) for name in ("ada", "bob", "carl", "dora")]
    together = threading.Barrier(len(users))
    outcomes: list[str] = []

    def leave(user: User) -> None:
        together.wait()
        try:
            services.update_user(user=user, changes={"role": Role.VIEWER}, actor=SERVER)
            outcomes.append("left")
        except Conflict:
            outcomes.append("stayed")
        finally:
            connections.close_all()

    threads = [threading.Thread(target=leave, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["left", "left", "left", "stayed"]
    assert User.objects.filter(role=Role.ADMINISTRATOR).count() == 1


async def test_names_that_differ_in_case_only_are_one(client: AsyncClient) -> None:
    await make_user(username="bob")
    with pytest.raises(InvalidInput):
        await sync_to_async(services.create_user)(username="Bob")
