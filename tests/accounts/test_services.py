import re

import pytest
from django.core.exceptions import ImproperlyConfigured

from accounts.api_key_format import digest_of
from accounts.keys import create_api_key
from accounts.models import ApiKey, User
from accounts.services import ensure_administrator, ensure_api_key

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
