"""What can be done with users, and what the first start sets up."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import audit, tokens
from accounts.api_key_format import new_key
from accounts.audit import SERVER, Action, Actor
from accounts.caller import Caller
from accounts.freshness import announce_change
from accounts.keys import preset_api_key
from accounts.models import ApiKey, Role, User
from common.errors import Conflict, InvalidInput

ADMINISTRATOR = "admin"
FIRST_KEY_NAME = "first key"
PRESET_KEY_MIN_LENGTH = 16
CHANGEABLE = ("role", "is_active", "email")
_ADMINISTERS = Q(role=Role.ADMINISTRATOR, is_active=True)


@transaction.atomic
def create_user(
    *, username: str, role: str = Role.VIEWER, password: str | None = None, email: str = "", actor: Actor = SERVER
) -> User:
    """Make a user; one without a password uses API keys alone. Raises InvalidInput with the field."""
    user = User(username=User.normalize_username(username), role=role, email=email)
    _check_fields(user)
    if password is not None:
        _check_password(password, user, "password")
    user.set_password(password)
    user.save()
    _record("user.created", user, actor, {field: (None, getattr(user, field)) for field in CHANGEABLE})
    return user


@transaction.atomic
def update_user(*, user: User, changes: dict[str, Any], actor: Actor) -> User:
    """Change some of CHANGEABLE. Raises Conflict rather than leave no administrator."""
    row = _locked_with_administrators(user)
    if changes.get("role", row.role) != Role.ADMINISTRATOR or not changes.get("is_active", row.is_active):
        _check_not_the_last_administrator(row)
    before = {field: getattr(row, field) for field in changes}
    for field, value in changes.items():
        setattr(row, field, value)
    _check_fields(row)
    changed = {field: (before[field], value) for field, value in changes.items() if before[field] != value}
    if changed:
        row.save(update_fields=list(changed))
        _record("user.updated", row, actor, changed)
        announce_change()
    return row


@transaction.atomic
def delete_user(*, user: User, actor: Actor) -> None:
    """Delete a user and their keys. Raises Conflict rather than leave no administrator."""
    row = _locked_with_administrators(user)
    _check_not_the_last_administrator(row)
    keys = [f"{key.name} ({key.prefix})" for key in row.api_keys.all()]
    before: dict[str, tuple[Any, Any]] = {field: (getattr(row, field), None) for field in CHANGEABLE}
    _record("user.deleted", row, actor, {**before, "keys": (keys, None)})
    row.delete()
    announce_change()


@transaction.atomic
def set_password(*, user: User, password: str, actor: Actor, field: str = "password") -> None:
    """Give a user a new password, which ends all tokens and sessions made under the old one.

    Raises InvalidInput, which names the field, for one that is too easy to guess.
    """
    row = _locked(user)
    _check_password(password, row, field)
    row.set_password(password)
    row.save(update_fields=["password"])
    _record("user.password_set", row, actor, {})
    announce_change()


@contextmanager
def noting_a_new_password(*, user_id: int, actor: Actor) -> Iterator[None]:
    """Around Django's own password pages: note and announce the change, if one is made."""
    with transaction.atomic():
        before = User.objects.filter(pk=user_id).values_list("password", flat=True).first()
        yield
        user = User.objects.filter(pk=user_id).first()
        if user is not None and user.password != before:
            _record("user.password_set", user, actor, {})
            announce_change()


def note_session(action: Action, *, user: User, actor: Actor) -> None:
    """Note that a session of the admin site began or ended."""
    _record(action, user, actor, {})


@transaction.atomic
def sign_in(*, user: User, actor: Actor) -> tuple[str, str]:
    """Begin a session of a user who has shown a password; returns its access and its refresh token."""
    User.objects.filter(pk=user.pk).update(last_login=timezone.now())
    _record("session.began", user, actor, {})
    return tokens.issue(user)


@transaction.atomic
def sign_out(*, caller: Caller, refresh_token: str | None, actor: Actor) -> None:
    """End the session of a refresh token, or the caller's own. Raises AuthenticationFailed for another's token."""
    session_id = tokens.session_of(refresh_token, username=caller.username) if refresh_token else caller.session_id
    tokens.end_session(session_id)
    audit.record(
        "session.ended", actor=actor, target_type="user", target_id=caller.username, target_name=caller.username
    )


def first_administrator() -> User:
    """`admin`, or the first of those who are administrators now."""
    candidates = User.objects.filter(role=Role.ADMINISTRATOR, is_active=True)
    return candidates.filter(username=ADMINISTRATOR).first() or candidates.order_by("pk")[0]


@transaction.atomic
def ensure_administrator(*, password: str | None) -> str | None:
    """See to it that somebody administers: the user `admin`, when nobody else does or a password for them is given.

    Returns the password that was generated, when the user was made without a given one; else None.
    """
    user = User.objects.filter(username=ADMINISTRATOR).first()
    has_administrator = User.objects.filter(role=Role.ADMINISTRATOR, is_active=True).exists()
    if has_administrator and not (password and user is None):
        if user is not None and password:
            _set_given_password(user, password)
        return None
    is_new = user is None
    user = user or User(username=ADMINISTRATOR)
    user.role, user.is_active = Role.ADMINISTRATOR, True
    generated = None if password or not is_new else secrets.token_urlsafe(15)
    if is_new:
        user.set_password(password or generated)
    user.save()
    _record("user.created" if is_new else "user.reinstated", user, SERVER, {})
    if password and not is_new:
        _set_given_password(user, password)
    announce_change()
    return generated


@transaction.atomic
def ensure_api_key(*, key: str | None) -> str | None:
    """See to it that an administrator has a premium key with all permissions. `ensure_administrator` must have run.

    A preset key works from now on, also one that was revoked or has expired, and the one that was preset before it no
    longer does. Returns the key that was generated, when there was none and none is given; else None. Raises
    ImproperlyConfigured for an unfit preset.
    """
    first = ApiKey.objects.filter(name=FIRST_KEY_NAME, owner=first_administrator()).first()
    if key is None:
        if first is not None or ApiKey.objects.exists():
            return None
        generated = new_key()
        preset_api_key(key=None, owner=first_administrator(), name=FIRST_KEY_NAME, secret=generated)
        return generated
    if len(key) < PRESET_KEY_MIN_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
        raise ImproperlyConfigured(
            f"LLAMA_GPU_API_KEY must have at least {PRESET_KEY_MIN_LENGTH} printable ASCII characters and no blanks."
        )
    preset_api_key(key=first, owner=first_administrator(), name=FIRST_KEY_NAME, secret=key)
    return None


def _set_given_password(user: User, password: str) -> None:
    """What the operator's environment says; their choice, so no rules for passwords."""
    if user.check_password(password):
        return
    user.set_password(password)
    user.save(update_fields=["password"])
    _record("user.password_set", user, SERVER, {})
    announce_change()


def _locked(user: User) -> User:
    return User.objects.select_for_update(no_key=True).get(pk=user.pk)


def _locked_with_administrators(user: User) -> User:
    """The user's row, locked together with those of all who administer: in one order, so that several who leave at the
    same time don't wait for each other in a circle."""
    rows = User.objects.select_for_update(no_key=True).filter(Q(pk=user.pk) | _ADMINISTERS).order_by("pk")
    found = {row.pk: row for row in rows}
    if user.pk not in found:
        raise User.DoesNotExist
    return found[user.pk]


def _check_not_the_last_administrator(user: User) -> None:
    """Raises Conflict if nobody else administers; of several who leave at the same time, the last one stays."""
    if set(User.objects.filter(_ADMINISTERS).values_list("pk", flat=True)) == {user.pk}:
        raise Conflict("This is the last active administrator; make another one first.")


def _check_fields(user: User) -> None:
    try:
        user.clean_fields(exclude={"password"})
        user.validate_constraints()
        user.validate_unique()
    except ValidationError as error:
        raise _named(error) from None


def _check_password(password: str, user: User, field: str) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise InvalidInput(" ".join(error.messages), field=field) from None


def _named(error: ValidationError) -> InvalidInput:
    """The first message with its field; a constraint's has none and is about the name."""
    field, messages = next(iter(error.message_dict.items()))
    return InvalidInput(messages[0], field="username" if field == "__all__" else field)


def _record(action: Action, user: User, actor: Actor, changes: dict[str, tuple[Any, Any]]) -> None:
    audit.record(
        action, actor=actor, target_type="user", target_id=user.username, target_name=user.username, changes=changes
    )
