import re
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from accounts.api_key_format import digest_of
from accounts.keys import create_api_key
from accounts.models import ApiKey, AuditEntry, Role, User
from accounts.services import ensure_administrator, ensure_api_key, first_administrator

pytestmark = pytest.mark.django_db
PRESET = "a-preset-key-of-the-operator"


def test_the_first_administrator_gets_a_generated_password_once() -> None:
    password = ensure_administrator(password=None)
    user = User.objects.get(username="admin")
    assert password is not None
    assert user.check_password(password)
    assert (user.role, user.is_staff, user.is_active) == ("administrator", True, True)
    assert ensure_administrator(password=None) is None


def test_a_given_password_is_set_and_reset() -> None:
    assert ensure_administrator(password="first password") is None
    assert ensure_administrator(password="second password") is None
    stored = User.objects.get(username="admin").password
    assert User.objects.get(username="admin").check_password("second password")
    ensure_administrator(password="second password")
    assert User.objects.get(username="admin").password == stored


def test_the_first_key_is_generated_once() -> None:
    ensure_administrator(password="some password")
    key = ensure_api_key(key=None)
    assert key is not None
    assert re.fullmatch(r"lgpu_[A-Za-z0-9]{8,}_[A-Za-z0-9]{32,}", key)
    row = ApiKey.objects.get()
    assert (row.owner.username, row.permission, row.tier) == ("admin", "admin", "premium")
    assert ensure_api_key(key=None) is None


def test_an_administrators_choice_outlives_a_restart() -> None:
    ensure_administrator(password=None)
    ada = User.objects.create_user("ada", role=Role.ADMINISTRATOR)
    User.objects.filter(username="admin").delete()
    assert ensure_administrator(password=None) is None
    assert [user.username for user in User.objects.all()] == ["ada"]
    assert first_administrator() == ada
    assert ensure_api_key(key=None) is not None
    assert ApiKey.objects.get().owner == ada


def test_where_nobody_administers_a_start_reinstates_admin() -> None:
    ensure_administrator(password="some password")
    User.objects.update(role=Role.VIEWER, is_active=False)
    assert ensure_administrator(password=None) is None
    admin = User.objects.get()
    assert (admin.role, admin.is_active, admin.check_password("some password")) == ("administrator", True, True)
    assert AuditEntry.objects.filter(action="user.reinstated", actor="server").exists()


@pytest.mark.parametrize(
    "ended",
    [{"revoked_at": timezone.now()}, {"expires_at": timezone.now()}, {"permission": "read", "tier": "standard"}],
)
def test_a_preset_key_works_at_every_start_whatever_became_of_it(ended: dict[str, Any]) -> None:
    ensure_administrator(password="some password")
    ensure_api_key(key=PRESET)
    ApiKey.objects.update(**ended)
    ensure_api_key(key=PRESET)
    row = ApiKey.objects.get()
    assert (row.state, row.permission, row.tier) == ("active", "admin", "premium")
    assert AuditEntry.objects.filter(action="key.preset").count() == 1


def test_a_preset_that_was_another_key_takes_its_place() -> None:
    ensure_administrator(password="some password")
    ensure_api_key(key="the-one-that-was-preset-first")
    bob = User.objects.create_user("bob")
    other, key = create_api_key(owner=bob, name="of bob")
    ensure_api_key(key=key)
    other.refresh_from_db()
    assert (other.owner.username, other.permission) == ("admin", "admin")
    assert [row.state for row in ApiKey.objects.order_by("id")] == ["revoked", "active"]


def test_a_generated_key_is_not_made_anew_beside_others() -> None:
    ensure_administrator(password="some password")
    create_api_key(owner=User.objects.get(), name="mine")
    assert ensure_api_key(key=None) is None


def test_a_preset_key_replaces_the_one_before_it() -> None:
    ensure_administrator(password="some password")
    ensure_api_key(key=None)
    assert ensure_api_key(key=PRESET) is None
    assert ensure_api_key(key=PRESET) is None
    assert ApiKey.objects.get().digest == digest_of(PRESET)


@pytest.mark.parametrize("key", ["short", "with a blank in its middle", "ümlauts-are-not-for-headers", "tab\t" * 8])
def test_an_unfit_preset_key_is_refused(key: str) -> None:
    ensure_administrator(password="some password")
    with pytest.raises(ImproperlyConfigured, match="LLAMA_GPU_API_KEY"):
        ensure_api_key(key=key)


def test_the_key_itself_is_not_stored() -> None:
    ensure_administrator(password="some password")
    row, key = create_api_key(owner=User.objects.get(), name="mine")
    stored = " ".join(str(value) for value in ApiKey.objects.values().get(pk=row.pk).values())
    assert key.split("_")[2] not in stored
    assert row.prefix == key.split("_")[1]
    assert create_api_key(owner=User.objects.get(), name="preset", key=PRESET)[0].prefix == "preset"
