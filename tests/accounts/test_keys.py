from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.test import AsyncClient
from django.utils import timezone

from accounts.api_key_format import digest_of, prefix_of
from accounts.audit import SERVER
from accounts.credentials import forget_callers, identify
from accounts.keys import create_api_key, reach_of, revoke_api_key, rotate_api_key, update_api_key
from accounts.models import ApiKey, Role, User
from common.envelope import timestamp
from common.errors import AuthenticationFailed, PermissionDenied
from tests.accounts.conftest import bearer, make_key, make_user

pytestmark = pytest.mark.django_db(transaction=True)
KEYS = "/api/v1/keys"
ME = "/api/v1/auth/me"


async def send(client: AsyncClient, method: str, path: str, body: Any, key: str) -> HttpResponse:
    call = getattr(client, method)
    return await call(path, body, content_type="application/json", headers=bearer(key))


async def refused(answer: HttpResponse) -> tuple[int, str | None]:
    return answer.status_code, answer.json()["error"]["details"].get("field")


async def test_a_key_is_shown_once(client: AsyncClient) -> None:
    admin = await make_key()
    body = {
        "name": "ci",
        "permissions": ["write"],
        "tier": "premium",
        "expires_at": "2099-01-01T00:00:00Z",
        "token_budget": 1000,
    }
    answer = await send(client, "post", KEYS, body, admin)
    assert (answer.status_code, answer["Cache-Control"]) == (201, "no-store")
    key, row = answer.json()["key"], answer.json()["api_key"]
    assert {name: row[name] for name in ("name", "prefix", "permissions", "tier", "owner", "state", "expires_at")} == {
        "name": "ci",
        "prefix": key.split("_")[1],
        "permissions": ["read", "write"],
        "tier": "premium",
        "owner": "ada",
        "state": "active",
        "expires_at": "2099-01-01T00:00:00.000Z",
    }
    assert (await client.get(ME, headers=bearer(key))).json()["credential"]["tier"] == "premium"
    for path in (KEYS, f"{KEYS}/{row['id']}"):
        shown = await client.get(path, headers=bearer(admin))
        assert key.split("_")[2] not in shown.text
        assert digest_of(key) not in shown.text


async def test_a_key_has_read_alone_unless_more_is_asked_for(client: AsyncClient) -> None:
    answer = await send(client, "post", KEYS, {"name": "plain"}, await make_key())
    assert answer.json()["api_key"]["permissions"] == ["read"]
    assert answer.json()["api_key"]["tier"] == "standard"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"permissions": []}, "permissions"),
        ({"permissions": "read"}, "permissions"),
        ({"permissions": ["fly"]}, "permissions[0]"),
        ({"tier": "gold"}, "tier"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"token_budget": -1}, "token_budget"),
        ({"token_budget_window": 0}, "token_budget_window"),
        ({"owner": "nobody"}, "owner"),
        ({"key": "lgpu_mine"}, "key"),
    ],
)
async def test_a_bad_key_is_refused_by_field(client: AsyncClient, change: dict[str, object], field: str) -> None:
    answer = await send(client, "post", KEYS, {"name": "bad", **change}, await make_key())
    assert await refused(answer) == (400, field)
    assert await ApiKey.objects.acount() == 1


async def test_a_key_makes_no_key_that_can_do_more(client: AsyncClient) -> None:
    soon = timezone.now() + timedelta(hours=1)
    reader = await make_key(await make_user(Role.OPERATOR), permission="read", expires_at=soon)
    wider = await send(client, "post", KEYS, {"name": "wider", "permissions": ["write"]}, reader)
    assert (wider.status_code, wider.json()["error"]["code"]) == (403, "PERMISSION_DENIED")
    for fields in ({"tier": "premium"}, {"token_budget": 5}, {"owner": "bob"}, {"expires_at": "2099-01-01T00:00:00Z"}):
        assert (await send(client, "post", KEYS, {"name": "more", **fields}, reader)).status_code == 403
    child = await send(client, "post", KEYS, {"name": "child"}, reader)
    assert child.status_code == 201
    assert child.json()["api_key"]["expires_at"] == timestamp(soon)


async def test_a_key_for_another_has_no_more_than_their_role(client: AsyncClient) -> None:
    await make_user(Role.VIEWER, "bob")
    admin = await make_key()
    body = {"name": "for bob", "owner": "bob"}
    assert await refused(await send(client, "post", KEYS, {**body, "permissions": ["write"]}, admin)) == (
        400,
        "permissions",
    )
    answer = await send(client, "post", KEYS, body, admin)
    assert (await client.get(ME, headers=bearer(answer.json()["key"]))).json()["user"]["id"] == "bob"


async def test_lists_show_ones_own_and_administrators_all(client: AsyncClient) -> None:
    admin = await make_key()
    bob = await make_key(await make_user(Role.VIEWER, "bob"), permission="read")

    async def owners(key: str, **query: object) -> list[str]:
        answer = await client.get(KEYS, query, headers=bearer(key))
        return [row["owner"] for row in answer.json()["api_keys"]]

    assert await owners(bob) == ["bob"]
    assert await owners(bob, owner="ada") == []
    assert await owners(admin) == ["ada", "bob"]
    assert await owners(admin, owner="bob") == ["bob"]
    await ApiKey.objects.filter(owner__username="bob").aupdate(expires_at=timezone.now())
    assert await owners(admin, state="active") == ["ada"]
    assert await owners(admin, state="expired") == ["bob"]
    await ApiKey.objects.filter(owner__username="bob").aupdate(revoked_at=timezone.now())
    assert await owners(admin, state="revoked") == ["bob"]
    assert await owners(admin, state="expired") == []
    first = (await client.get(KEYS, {"limit": 1}, headers=bearer(admin))).json()
    assert await owners(admin, limit=1, cursor=first["next_cursor"]) == ["bob"]


async def test_narrowing_acts_and_never_widens(client: AsyncClient) -> None:
    user = await make_user()
    admin, key = await make_key(user), await make_key(user, permission="admin")
    path = f"{KEYS}/{(await ApiKey.objects.alast()).pk}"  # type: ignore[union-attr]
    assert (await client.get("/api/v1/audit", headers=bearer(key))).status_code == 200
    narrowed = await send(client, "patch", path, {"permissions": ["read"], "name": "narrow"}, key)
    assert narrowed.json()["api_key"]["permissions"] == ["read"]
    assert (await client.get("/api/v1/audit", headers=bearer(key))).status_code == 403
    assert await refused(await send(client, "patch", path, {"permissions": ["write"]}, admin)) == (400, "permissions")
    assert (await send(client, "patch", path, {"permissions": ["read"]}, admin)).status_code == 200
    assert (await ApiKey.objects.aget(name="narrow")).permission == "read"


async def test_only_administrators_change_tiers_and_let_keys_live_longer(client: AsyncClient) -> None:
    admin, own = await make_key(), await make_key(await make_user(Role.OPERATOR, "bob"), permission="write")
    row = await ApiKey.objects.alast()
    path = f"{KEYS}/{row.pk}"  # type: ignore[union-attr]
    for fields in ({"tier": "premium"}, {"token_budget": None}):
        assert (await send(client, "patch", path, fields, own)).status_code == 403
    assert (await send(client, "patch", path, {"expires_at": "2098-01-01T00:00:00Z"}, own)).status_code == 200
    # With that, the key itself ends in 2098, and can't hand out more of its own life.
    assert (await send(client, "patch", path, {"expires_at": "2099-01-01T00:00:00Z"}, own)).status_code == 400
    assert (await send(client, "patch", path, {"expires_at": None}, own)).status_code == 400
    fields = {"expires_at": None, "tier": "premium", "token_budget": 7, "token_budget_window": 60}
    changed = (await send(client, "patch", path, fields, admin)).json()["api_key"]
    assert {name: changed[name] for name in fields} == fields


async def test_a_key_can_be_made_to_expire_now(client: AsyncClient) -> None:
    key = await make_key(permission="read")
    path = f"{KEYS}/{(await ApiKey.objects.aget()).pk}"
    assert (await send(client, "patch", path, {"expires_at": "2001-01-01T00:00:00Z"}, key)).status_code == 200
    assert (await client.get(ME, headers=bearer(key))).status_code == 401


async def test_a_weaker_credential_touches_no_stronger_key(client: AsyncClient) -> None:
    user = await make_user()
    await make_key(user, permission="admin")
    strong = await ApiKey.objects.aget()
    weak = await make_key(user, permission="write", expires_at=timezone.now() + timedelta(hours=1))
    path = f"{KEYS}/{strong.pk}"
    assert (await client.get(path, headers=bearer(weak))).status_code == 200
    answers = [
        await send(client, "patch", path, {"name": "mine"}, weak),
        await client.delete(path, headers=bearer(weak)),
        await send(client, "post", f"{path}/rotate", {}, weak),
    ]
    assert [answer.status_code for answer in answers] == [403, 403, 403]
    await ApiKey.objects.filter(pk=strong.pk).aupdate(permission="write")
    longer_living = await send(client, "post", f"{path}/rotate", {}, weak)
    assert longer_living.status_code == 403
    await strong.arefresh_from_db()
    assert (strong.name, strong.state, strong.rotated_at) == ("test", "active", None)


async def test_an_expiring_key_ends_keys_that_live_longer(client: AsyncClient) -> None:
    admin = await make_key(expires_at=timezone.now() + timedelta(hours=1))
    await make_key(await make_user(Role.OPERATOR, "bob"), permission="write")
    path = f"{KEYS}/{(await ApiKey.objects.alast()).pk}"  # type: ignore[union-attr]
    assert (await send(client, "patch", path, {"permissions": ["read"]}, admin)).status_code == 200
    assert (await send(client, "patch", path, {"expires_at": "2099-01-01T00:00:00Z"}, admin)).status_code == 403
    assert (await send(client, "post", f"{path}/rotate", {}, admin)).status_code == 403
    assert (await client.delete(path, headers=bearer(admin))).status_code == 200


async def test_a_demoted_user_can_end_the_keys_of_better_days(client: AsyncClient) -> None:
    bob = await make_user(Role.OPERATOR, "bob")
    await make_key(bob, permission="write")
    path = f"{KEYS}/{(await ApiKey.objects.aget()).pk}"
    reader = await make_key(bob, permission="read")
    assert (await client.delete(path, headers=bearer(reader))).status_code == 403
    await User.objects.aupdate(role=Role.VIEWER)
    forget_callers()
    assert (await send(client, "post", f"{path}/rotate", {}, reader)).status_code == 403
    assert (await client.delete(path, headers=bearer(reader))).status_code == 200


async def test_a_rotated_key_works_through_its_grace_time(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await make_key(permission="write", tier="premium")
    before = await ApiKey.objects.aget()
    answer = await send(client, "post", f"{KEYS}/{before.pk}/rotate", {"grace_seconds": 60}, old)
    assert (answer.status_code, answer["Cache-Control"]) == (200, "no-store")
    new, row = answer.json()["key"], answer.json()["api_key"]
    assert (row["id"], row["tier"], row["permissions"]) == (before.pk, "premium", ["read", "write"])
    assert row["prefix"] == prefix_of(new) != before.prefix
    assert row["old_key_ends_at"] is not None

    async def statuses() -> list[int]:
        return [(await client.get(ME, headers=bearer(key))).status_code for key in (old, new)]

    assert await statuses() == [200, 200]
    await ApiKey.objects.aupdate(old_ends_at=timezone.now())
    monkeypatch.setattr("accounts.credentials._callers.recall", lambda key: None)
    assert await statuses() == [401, 200]


async def test_a_second_rotation_and_a_revocation_end_what_was_before(client: AsyncClient) -> None:
    first = await make_key(permission="read")
    path = f"{KEYS}/{(await ApiKey.objects.aget()).pk}"
    second = (await send(client, "post", f"{path}/rotate", {}, first)).json()["key"]
    third = (await send(client, "post", f"{path}/rotate", {}, second)).json()["key"]

    async def statuses() -> list[int]:
        return [(await client.get(ME, headers=bearer(key))).status_code for key in (first, second, third)]

    assert await statuses() == [401, 200, 200]
    assert (await client.delete(path, headers=bearer(second))).status_code == 200
    assert await statuses() == [401, 401, 401]


@pytest.mark.parametrize("lifetime", [None, timedelta(minutes=1)])
async def test_a_replaced_secret_takes_nothing_over(client: AsyncClient, lifetime: timedelta | None) -> None:
    expires_at = timezone.now() + lifetime if lifetime else None
    old = await make_key(expires_at=expires_at)
    row = await ApiKey.objects.select_related("owner").aget()
    path = f"{KEYS}/{row.pk}"
    new = (await send(client, "post", f"{path}/rotate", {"grace_seconds": 3600}, old)).json()["key"]
    other = await make_key(row.owner, permission="read", expires_at=expires_at)
    other_path = f"{KEYS}/{(await ApiKey.objects.alast()).pk}"  # type: ignore[union-attr]

    for rotated in (path, other_path):
        assert (await send(client, "post", f"{rotated}/rotate", {"grace_seconds": 0}, old)).status_code == 403
    assert [(await client.get(ME, headers=bearer(key))).status_code for key in (old, new, other)] == [200] * 3


async def test_what_a_replaced_secret_makes_ends_with_it(client: AsyncClient) -> None:
    old = await make_key()
    path = f"{KEYS}/{(await ApiKey.objects.aget()).pk}"
    row = (await send(client, "post", f"{path}/rotate", {"grace_seconds": 3600}, old)).json()["api_key"]
    ends_at = row["old_key_ends_at"]

    made = await send(client, "post", KEYS, {"name": "heir"}, old)
    assert (made.status_code, made.json()["api_key"]["expires_at"]) == (201, ends_at)
    late = {"expires_at": "2099-01-01T00:00:00Z"}
    assert (await send(client, "post", KEYS, {"name": "heir", **late}, old)).status_code == 403
    heir = f"{KEYS}/{made.json()['api_key']['id']}"
    assert (await send(client, "patch", heir, late, old)).status_code == 403
    assert (await send(client, "patch", path, {"expires_at": None}, old)).status_code == 403


async def test_a_process_that_has_not_heard_of_a_rotation_lets_the_old_secret_do_no_more(client: AsyncClient) -> None:
    """Who calls is remembered for up to half a second longer than it is true."""
    old = await make_key()
    remembered = await identify(old)
    assert remembered is not None
    key = await ApiKey.objects.aget()
    rotate, create = sync_to_async(rotate_api_key), sync_to_async(create_api_key)
    rotated, _ = await rotate(key=key, actor=SERVER, grace=timedelta(hours=1))

    with pytest.raises(PermissionDenied):
        await rotate(key=key, actor=SERVER, reach=reach_of(remembered), grace=timedelta(0))
    heir, _ = await create(owner=await User.objects.aget(), name="heir", reach=reach_of(remembered))
    assert heir.expires_at == rotated.old_ends_at

    await sync_to_async(update_api_key)(key=key, changes={"permission": "read"}, actor=SERVER)
    with pytest.raises(PermissionDenied):
        await create(owner=heir.owner, name="wide", permission="admin", reach=reach_of(remembered))
    await rotate(key=key, actor=SERVER, grace=timedelta(0))
    for action in (
        create(owner=heir.owner, name="late", reach=reach_of(remembered)),
        rotate(key=heir, actor=SERVER, reach=reach_of(remembered)),
        sync_to_async(revoke_api_key)(key=key, actor=SERVER, reach=reach_of(remembered)),
    ):
        with pytest.raises(AuthenticationFailed):
            await action
    assert await ApiKey.objects.acount() == 2


async def test_a_revoked_key_that_is_still_remembered_makes_none(client: AsyncClient) -> None:
    remembered = await identify(await make_key())
    assert remembered is not None
    await sync_to_async(revoke_api_key)(key=await ApiKey.objects.aget(), actor=SERVER)
    with pytest.raises(AuthenticationFailed):
        await sync_to_async(create_api_key)(owner=await User.objects.aget(), name="late", reach=reach_of(remembered))


async def test_a_rotation_without_grace_ends_the_old_key_at_once(client: AsyncClient) -> None:
    key = await make_key(permission="read")
    path = f"{KEYS}/{(await ApiKey.objects.aget()).pk}/rotate"
    for grace in (-1, 31 * 86400, "long"):
        assert await refused(await send(client, "post", path, {"grace_seconds": grace}, key)) == (400, "grace_seconds")
    assert (await send(client, "post", path, {"grace_seconds": 0}, key)).status_code == 200
    assert (await client.get(ME, headers=bearer(key))).status_code == 401


async def test_a_key_that_is_over_is_not_rotated(client: AsyncClient) -> None:
    user = await make_user()
    admin = await make_key(user)
    await make_key(user, expires_at=timezone.now())
    path = f"{KEYS}/{(await ApiKey.objects.alast()).pk}"  # type: ignore[union-attr]
    assert (await send(client, "post", f"{path}/rotate", {}, admin)).status_code == 400
    for _ in range(2):
        assert (await client.delete(path, headers=bearer(admin))).status_code == 200
    assert (await client.get(path, headers=bearer(admin))).json()["api_key"]["state"] == "revoked"


async def test_callers_without_credentials_have_no_keys(client: AsyncClient, settings: Any) -> None:
    settings.ANONYMOUS_PERMISSION = "write"
    assert (await client.get(KEYS)).status_code == 401
    assert (await client.post(KEYS, {"name": "x"}, content_type="application/json")).status_code == 401
    assert (await client.get(f"{KEYS}/1")).status_code == 404
    assert await User.objects.acount() == 0


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("lgpu_abcdefgh_" + "x" * 40, "abcdefgh"),
        ("lgpu_abcdefgh_" + "x" * 31, "preset"),
        ("lgpu_a_" + "x" * 40, "preset"),
        ("lgpu_secretsecret_x", "preset"),
        ("my-own-secret-key-of-old", "preset"),
    ],
)
def test_only_a_key_with_a_long_secret_shows_its_prefix(key: str, shown: str) -> None:
    assert prefix_of(key) == shown
