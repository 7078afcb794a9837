import re
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from django.test import AsyncClient
from django.utils import timezone
from pytest_django import Settings

from accounts.audit import Action
from accounts.models import ApiKey, AuditEntry, Role
from common.envelope import timestamp
from tests.accounts.conftest import PASSWORD, bearer, make_key, make_user

pytestmark = pytest.mark.django_db(transaction=True)
AUDIT, KEYS, USERS = (f"/api/v1/{name}" for name in ("audit", "keys", "users"))


async def entries(client: AsyncClient, key: str, **query: object) -> list[dict[str, Any]]:
    answer = await client.get(AUDIT, query, headers=bearer(key))
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["entries"]
    return found


async def test_it_tells_who_what_when_and_from_where(client: AsyncClient, settings: Settings) -> None:
    settings.TRUSTED_PROXIES = ["127.0.0.1"]
    key = await make_key()
    begun = timezone.now()
    headers = {**bearer(key), "X-Forwarded-For": "192.0.2.7", "X-Request-ID": "mine-1"}
    await make_user(Role.VIEWER, "bob")
    await client.patch(f"{USERS}/bob", {"role": "operator"}, content_type="application/json", headers=headers)
    (entry,) = await entries(client, key, action="user.updated")
    assert begun <= timezone.datetime.fromisoformat(entry.pop("timestamp")) + timedelta(milliseconds=1)
    assert isinstance(entry.pop("id"), int)
    assert entry == {
        "actor": "ada",
        "credential": f"key {key.split('_')[1]}",
        "address": "192.0.2.7",
        "request_id": "mine-1",
        "action": "user.updated",
        "target": {"type": "user", "id": "bob", "name": "bob"},
        "changes": {"role": {"before": "viewer", "after": "operator"}},
    }


async def test_every_change_is_noted_without_secrets(client: AsyncClient) -> None:
    admin = await make_key(await make_user(password=PASSWORD))
    secrets = [admin.split("_")[2], PASSWORD]

    async def send(method: str, path: str, body: Any = None, credential: str = admin) -> Any:
        call = getattr(client, method)
        answer = await call(path, body, content_type="application/json", headers=bearer(credential))
        assert answer.status_code < 400, answer.text
        return answer.json()

    session = await send("post", "/api/v1/auth/login", {"username": "ada", "password": PASSWORD})
    await send("post", USERS, {"username": "bob", "password": "first secret of bob"})
    await send("patch", f"{USERS}/bob", {"active": False})
    await send("put", f"{USERS}/bob/password", {"password": "second secret of bob"})
    made = await send("post", KEYS, {"name": "one", "permissions": ["write"]})
    path = f"{KEYS}/{made['api_key']['id']}"
    await send("patch", path, {"permissions": ["read"], "tier": "premium"})
    rotated = await send("post", f"{path}/rotate", {})
    await send("delete", path)
    await send("delete", path)
    await send("patch", f"{USERS}/bob", {"active": False})
    await send("delete", f"{USERS}/bob")
    changed = await send(
        "post",
        "/api/v1/auth/password",
        {"current_password": PASSWORD, "new_password": "third secret"},
        session["token"],
    )
    await send("post", "/api/v1/auth/logout", {}, changed["token"])
    actions = [entry["action"] for entry in reversed(await entries(client, admin))]
    assert actions == [
        "key.created",
        "session.began",
        "user.created",
        "user.updated",
        "user.password_set",
        "key.created",
        "key.updated",
        "key.rotated",
        "key.revoked",
        "user.deleted",
        "user.password_set",
        "session.began",
        "session.ended",
    ]
    secrets += ["first secret of bob", "second secret of bob", "third secret"]
    secrets += [made["key"].split("_")[2], rotated["key"].split("_")[2]]
    secrets += [session["token"], session["refresh_token"], changed["token"], changed["refresh_token"]]
    rows = [str(row) async for row in AuditEntry.objects.values()]
    assert not [secret for secret in secrets for row in rows if secret in row]
    hashes = [value async for value in ApiKey.objects.values_list("digest", flat=True)]
    assert not [value for value in hashes for row in rows if value in row]


async def test_what_failed_is_not_noted(client: AsyncClient) -> None:
    key = await make_key()
    before = await AuditEntry.objects.acount()
    for path, body in ((USERS, {"username": "b b"}), (KEYS, {"name": "x", "owner": "nobody"})):
        answer = await client.post(path, body, content_type="application/json", headers=bearer(key))
        assert answer.status_code == 400
    assert (await client.delete(f"{USERS}/ada", headers=bearer(key))).status_code == 409
    assert await AuditEntry.objects.acount() == before


async def test_it_is_filtered_and_paged(client: AsyncClient) -> None:
    key = await make_key()
    await AuditEntry.objects.all().adelete()
    start = timezone.now().replace(microsecond=0)
    for number in range(10):
        await AuditEntry.objects.acreate(
            actor="ada" if number % 2 else "bob",
            action="key.revoked" if number < 3 else "key.created",
            target_type="key",
            target_id=str(number),
            address="192.0.2.1",
            request_id=f"r{number}",
            at=start + timedelta(seconds=number),
        )

    async def ids(**query: object) -> list[int]:
        return [int(entry["target"]["id"]) for entry in await entries(client, key, **query)]

    assert await ids() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert await ids(actor="bob") == [8, 6, 4, 2, 0]
    assert await ids(action="key.revoked") == [2, 1, 0]
    assert await ids(action="key.", actor="ada") == [9, 7, 5, 3, 1]
    assert await ids(action="key") == []
    assert await ids(target_type="key", target_id="4") == [4]
    assert await ids(request_id="r5") == [5]
    assert await ids(address="192.0.2.2") == []
    assert await ids(since=timestamp(start + timedelta(seconds=7))) == [9, 8, 7]
    assert await ids(until=timestamp(start + timedelta(seconds=2))) == [1, 0]
    first = (await client.get(AUDIT, {"limit": 4}, headers=bearer(key))).json()
    await AuditEntry.objects.acreate(actor="ada", action="key.created", target_type="key", target_id="10")
    second = (await client.get(AUDIT, {"limit": 6, "cursor": first["next_cursor"]}, headers=bearer(key))).json()
    assert [int(entry["target"]["id"]) for entry in second["entries"]] == [5, 4, 3, 2, 1, 0]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    "query", [{"since": "yesterday"}, {"until": "1"}, {"limit": "all"}, {"cursor": "é"}, {"who": "me"}]
)
async def test_a_bad_question_is_refused_by_field(client: AsyncClient, query: dict[str, str]) -> None:
    answer = await client.get(AUDIT, query, headers=bearer(await make_key()))
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["field"] == next(iter(query))


def test_the_docs_name_every_action() -> None:
    page = (Path(__file__).parents[2] / "docs" / "accounts.md").read_text()
    table = page[page.index("| actions |") : page.index("## In a browser")]
    assert set(re.findall(r"`(\w+\.\w+)`", table)) == set(get_args(Action))
