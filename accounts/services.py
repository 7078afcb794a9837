"""What can be done with users and keys."""

import secrets
from datetime import datetime

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from accounts.api_key_format import digest_of, lookup_of, new_key, prefix_of
from accounts.caller import Permission, Tier
from accounts.models import ApiKey, Role, User

ADMINISTRATOR = "admin"
FIRST_KEY_NAME = "first key"
PRESET_KEY_MIN_LENGTH = 16


@transaction.atomic
def ensure_administrator(*, password: str | None) -> str | None:
    """See to it that the user `admin` exists. With a password given, it is theirs from now on.

    Returns the password that was generated, when the user was made without a given one; else None.
    """
    user, is_new = User.objects.get_or_create(
        username=ADMINISTRATOR, defaults={"role": Role.ADMINISTRATOR, "is_staff": True, "is_superuser": True}
    )
    generated = secrets.token_urlsafe(15) if is_new and not password else None
    chosen = password or generated
    if chosen and (is_new or not user.check_password(chosen)):
        user.set_password(chosen)
        user.save(update_fields=["password"])
    return generated


@transaction.atomic
def ensure_api_key(*, key: str | None) -> str | None:
    """See to it that `admin` has a premium key with all permissions. `ensure_administrator` must have run.

    A preset key works from now on, and those that were preset before it no longer do. Returns the key that was
    generated, when there was none and none is given; else None. Raises ImproperlyConfigured for an unfit preset.
    """
    owner = User.objects.get(username=ADMINISTRATOR)
    first_keys = ApiKey.objects.filter(owner=owner, name=FIRST_KEY_NAME)
    if key is None:
        if first_keys.exists():
            return None
        return _create_first_key(owner, new_key())
    if len(key) < PRESET_KEY_MIN_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
        raise ImproperlyConfigured(
            f"LLAMA_GPU_API_KEY must have at least {PRESET_KEY_MIN_LENGTH} printable ASCII characters and no blanks."
        )
    if not ApiKey.objects.filter(lookup=lookup_of(digest_of(key))).exists():
        first_keys.delete()
        _create_first_key(owner, key)
    return None


def create_api_key(
    *,
    owner: User,
    name: str,
    permission: Permission = "read",
    tier: Tier = "standard",
    expires_at: datetime | None = None,
    key: str | None = None,
) -> tuple[ApiKey, str]:
    """Make a key. Returns the row and the key itself, which is never to be had again."""
    key = key or new_key()
    digest = digest_of(key)
    row = ApiKey.objects.create(
        owner=owner,
        name=name,
        prefix=prefix_of(key),
        lookup=lookup_of(digest),
        digest=digest,
        permission=permission,
        tier=tier,
        expires_at=expires_at,
    )
    return row, key


def _create_first_key(owner: User, key: str) -> str:
    create_api_key(owner=owner, name=FIRST_KEY_NAME, permission="admin", tier="premium", key=key)
    return key
