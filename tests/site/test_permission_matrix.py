"""Every endpoint of the live URL map, with every kind of credential."""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib import admin
from django.contrib.contenttypes.models import ContentType
from django.test import AsyncClient, Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from accounts.caller import LEVELS, Permission
from accounts.doors import Door
from accounts.keys import create_api_key
from accounts.models import ApiKey, Role, User
from tests.permission_matrix import MATRIX, PAGES, SHARED, Row

pytestmark = pytest.mark.django_db(transaction=True)

PLACEHOLDER = re.compile(r"\{(\w+)\}")
NOBODYS = "999999"  # what placeholders stand for in the address of a shared object: one that does not exist
REFUSED = ("no credentials", "a bad key", "an expired key", "a revoked key")
ADMIN_OPEN = {"login/", "logout/", "jsi18n/"}  # the sign-in page, and what it needs


def views(entries: list[Any], start: str = "/") -> Iterator[tuple[str, Any]]:
    """Every address of the site, placeholders in braces, with its view; the admin site is left out."""
    for entry in entries:
        if isinstance(entry, URLResolver) and entry.namespace != "admin":
            yield from views(entry.url_patterns, start + str(entry.pattern))
        elif isinstance(entry, URLPattern):
            address = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", start + str(entry.pattern))
            yield address, entry.callback


def door_of(view: Any) -> type[Door] | None:
    kind = getattr(view, "view_class", None) or getattr(view, "cls", None)
    return kind if isinstance(kind, type) and issubclass(kind, Door) else None


def methods_of(door: type[Door]) -> list[str]:
    return [name.upper() for name in door.http_method_names if hasattr(door, name) and name not in ("options", "head")]


def doors() -> dict[str, type[Door]]:
    """`GET /api/v1/models` and its door, for every method of every door."""
    found = {address: door_of(view) for address, view in views(get_resolver().url_patterns)}
    return {f"{method} {address}": door for address, door in found.items() if door for method in methods_of(door)}


def test_every_endpoint_has_its_row_and_every_row_its_endpoint() -> None:
    without_row = "\n".join(f'    "{endpoint}": Row(…),' for endpoint in doors() if endpoint not in MATRIX)
    assert not without_row, f"say who may enter, by a line in MATRIX of tests/permission_matrix.py:\n{without_row}"
    assert not MATRIX.keys() - doors().keys(), "rows in tests/permission_matrix.py whose endpoint is gone"


def test_what_is_no_door_is_a_page() -> None:
    others = {address for address, view in views(get_resolver().url_patterns) if not door_of(view)}
    assert others == PAGES, (
        "an address outside the API belongs into PAGES of tests/permission_matrix.py; others are Doors"
    )


def test_a_door_that_rules_by_method_rules_all_of_its_methods() -> None:
    for endpoint, door in doors().items():
        assert not isinstance(door.permission, Mapping) or endpoint.split()[0] in door.permission, endpoint


def test_every_address_of_an_object_says_whose_it_is() -> None:
    unclear = [endpoint for endpoint, row in MATRIX.items() if PLACEHOLDER.search(endpoint) and not row.objects]
    assert not unclear, "set objects= in these rows: SHARED, or a function that makes one of a user's"


@pytest.mark.parametrize("endpoint", MATRIX)
async def test_it_lets_in_whom_it_should_and_nobody_else(endpoint: str, clean_redis: str) -> None:
    row = MATRIX[endpoint]
    wrong = {}
    for who, headers in (await sync_to_async(credentials)()).items():
        status, code = await call(endpoint, headers, await sync_to_async(placeholders)(row, "ada"))
        if verdict(status, code) != (expected := expected_verdict(row, who)):
            wrong[who] = f"{verdict(status, code)} ({status}), and should be {expected}"
    assert wrong == {}


@pytest.mark.parametrize("endpoint", [endpoint for endpoint, row in MATRIX.items() if callable(row.objects)])
async def test_it_hides_another_users_object(endpoint: str, clean_redis: str) -> None:
    row = MATRIX[endpoint]
    keys = await sync_to_async(credentials)()
    wrong = {}
    for level in LEVELS:
        status, code = await call(endpoint, keys[level], await sync_to_async(placeholders)(row, "bob"))
        expected = "enters" if level == "admin" else "hidden" if includes(level, row.permission) else "forbidden"
        if (got := "hidden" if status == 404 else verdict(status, code)) != expected:
            wrong[level] = f"{got} ({status}), and should be {expected}"
    assert wrong == {}


def credentials() -> dict[str, dict[str, str]]:
    """The headers of each kind of caller. All are keys of the administrator ada, so that only the keys' levels tell."""
    ada = User.objects.create_user("ada", role=Role.ADMINISTRATOR)
    User.objects.create_user("bob", role=Role.ADMINISTRATOR)
    now = timezone.now()
    keys = {level: create_api_key(owner=ada, name=level, permission=level)[1] for level in LEVELS}
    keys["an expired key"] = create_api_key(
        owner=ada, name="expired", permission="admin", expires_at=now - timedelta(seconds=1)
    )[1]
    row, keys["a revoked key"] = create_api_key(owner=ada, name="revoked", permission="admin")
    ApiKey.objects.filter(pk=row.pk).update(revoked_at=now)
    keys["a bad key"] = "lgpu_aaaaaaaa_" + "a" * 40
    return {"no credentials": {}} | {who: {"Authorization": f"Bearer {key}"} for who, key in keys.items()}


def placeholders(row: Row, username: str) -> dict[str, str]:
    return row.objects(User.objects.get(username=username)) if callable(row.objects) else {}


async def call(endpoint: str, headers: dict[str, str], values: dict[str, str]) -> tuple[int, str]:
    """The answer's status and error code."""
    method, address = endpoint.split()
    path = PLACEHOLDER.sub(lambda match: values.get(match[1], NOBODYS), address)
    answer = await AsyncClient().generic(method, path, b"{}", content_type="application/json", headers=headers)
    is_failure = answer.status_code >= 400 and "error" in answer.json()  # a 503 of the health doors is none
    return answer.status_code, answer.json()["error"]["code"] if is_failure else ""


def verdict(status: int, code: str) -> str:
    if status == 401 and code in ("AUTHENTICATION_FAILED", "invalid_api_key"):
        return "unknown"
    if status == 403 and code in ("PERMISSION_DENIED", "insufficient_permissions"):
        return "forbidden"
    return "fails" if code and (status >= 500 or status in (401, 403, 405, 429)) else "enters"


def expected_verdict(row: Row, who: str) -> str:
    if row.permission is None:
        return "enters"
    if who in REFUSED:
        return "unknown"
    return "enters" if includes(who, row.permission) else "forbidden"


def includes(level: str, needed: Permission | None) -> bool:
    return needed is None or LEVELS.index(level) >= LEVELS.index(needed)  # type: ignore[arg-type]


def admin_addresses() -> set[str]:
    values = {"app_label": "accounts", "url": "nowhere"}
    addresses: set[str] = set()
    for entry in admin.site.urls[0]:
        inner = entry.url_patterns if isinstance(entry, URLResolver) else [None]
        for pattern in inner:
            text = str(entry.pattern) + (str(pattern.pattern) if pattern else "")
            text = re.sub(r"\(\?P<(\w+)>[^)]*\)", lambda match: values[match[1]], text)
            text = re.sub(r"<(?:\w+:)?(\w+)>", lambda match: values.get(match[1], "1"), text)
            addresses.add(text.strip("^$"))
    return addresses


@pytest.mark.parametrize("address", sorted(admin_addresses() - ADMIN_OPEN))
def test_the_admin_site_is_for_administrators_who_signed_in(address: str) -> None:
    ContentType.objects.clear_cache()
    entered = {}
    for who in ("nobody", "viewer", "operator", "administrator", "disabled", "key"):
        client, headers = Client(), {}
        if who in ("viewer", "operator", "administrator", "disabled"):
            role = Role.ADMINISTRATOR if who == "disabled" else Role(who)
            user = User.objects.create_user(who, role=role)
            client.force_login(user)
            if who == "disabled":
                User.objects.filter(pk=user.pk).update(is_active=False)
        elif who == "key":
            owner = User.objects.get(username="administrator")
            headers = {"Authorization": f"Bearer {create_api_key(owner=owner, name='key', permission='admin')[1]}"}
        response = client.get(f"/admin/{address}", headers=headers)
        entered[who] = not (response.status_code == 302 and response["Location"].startswith("/admin/login/"))
    assert entered == {who: who == "administrator" for who in entered}


def test_the_table_has_no_other_kind_of_objects() -> None:
    assert {row.objects for row in MATRIX.values() if not callable(row.objects)} <= {None, SHARED}
