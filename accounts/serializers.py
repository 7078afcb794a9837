"""What the doors of users, keys, sign-in and audit take and give."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from django.conf import settings
from django.utils import timezone
from rest_framework import serializers

from accounts.caller import LEVELS, Caller, Permission
from accounts.keys import DEFAULT_GRACE, MAX_GRACE
from accounts.models import ApiKey, AuditEntry, Role, User
from common.envelope import timestamp
from common.paging import PageQuery
from common.serializers import StrictSerializer

MAX_BUDGET = 2**53  # what every JSON reader takes as an exact integer


class PasswordField(serializers.CharField):
    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=1000, trim_whitespace=False, style={"input_type": "password"}, **options)


class PermissionsField(serializers.ListField):
    """A list of permissions in the API, the highest of them inside: each includes those before it."""

    child = serializers.ChoiceField(choices=LEVELS)

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_empty=False, **options)

    def to_internal_value(self, data: Any) -> Any:
        return max(super().to_internal_value(data), key=LEVELS.index)


# ---------------------------------------------------------------- requests
class LoginRequest(StrictSerializer):
    username = serializers.CharField(max_length=150)
    password = PasswordField()


class RefreshRequest(StrictSerializer):
    refresh_token = serializers.CharField(max_length=4096)


class LogoutRequest(StrictSerializer):
    refresh_token = serializers.CharField(
        max_length=4096, required=False, help_text="The session to end; by default the one of the token you came with."
    )


class OwnPasswordRequest(StrictSerializer):
    current_password = PasswordField()
    new_password = PasswordField()


class PasswordRequest(StrictSerializer):
    password = PasswordField()


class UserRequest(StrictSerializer):
    username = serializers.CharField(max_length=150)
    password = PasswordField(required=False, help_text="Without one, the user has API keys alone.")
    role = serializers.ChoiceField(choices=Role.choices, default=Role.VIEWER)
    email = serializers.EmailField(required=False, allow_blank=True, default="")


class UserPatchRequest(StrictSerializer):
    role = serializers.ChoiceField(choices=Role.choices, required=False)
    active = serializers.BooleanField(required=False, source="is_active", help_text="false disables the user.")
    email = serializers.EmailField(required=False, allow_blank=True)


class UsersQuery(PageQuery):
    search = serializers.CharField(required=False, max_length=150, help_text="A part of the username or the address.")
    role = serializers.ChoiceField(choices=Role.choices, required=False)
    active = serializers.BooleanField(required=False)


class KeyFields(StrictSerializer):
    """What both making and changing a key take."""

    permissions = PermissionsField(required=False, help_text="Each permission includes those before it.")
    tier = serializers.CharField(required=False, max_length=32, help_text="Administrators only.")
    expires_at = serializers.DateTimeField(required=False, allow_null=True, help_text="null: never.")
    token_budget = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=MAX_BUDGET,
        help_text="Tokens of prompts and completions in each window; null: no limit. Administrators only.",
    )  # fmt: skip
    token_budget_window = serializers.IntegerField(
        required=False, min_value=1, max_value=366 * ApiKey.DAY_SECONDS, help_text="Seconds. Administrators only."
    )

    def validate_tier(self, tier: str) -> str:
        if tier not in settings.TIERS:
            raise serializers.ValidationError(f"There is no such tier; there are: {', '.join(settings.TIERS)}.")
        return tier

    @staticmethod
    def as_fields(parsed: dict[str, Any]) -> dict[str, Any]:
        """The names of the row's fields."""
        return {("permission" if name == "permissions" else name): value for name, value in parsed.items()}


class KeyRequest(KeyFields):
    name = serializers.CharField(max_length=100)
    owner = serializers.CharField(
        required=False, max_length=150, help_text="Another user's id. Administrators only; by default yourself."
    )

    def validate_expires_at(self, expires_at: datetime | None) -> datetime | None:
        if expires_at is not None and expires_at <= timezone.now():
            raise serializers.ValidationError("This time has passed.")
        return expires_at


class KeyPatchRequest(KeyFields):
    name = serializers.CharField(max_length=100, required=False)


class RotateRequest(StrictSerializer):
    grace_seconds = serializers.IntegerField(
        required=False,
        default=int(DEFAULT_GRACE.total_seconds()),
        min_value=0,
        max_value=int(MAX_GRACE.total_seconds()),
        help_text="For how long the old key still works.",
    )


class KeysQuery(PageQuery):
    owner = serializers.CharField(required=False, max_length=150)
    state = serializers.ChoiceField(choices=ApiKey.State.choices, required=False)


class AuditQuery(PageQuery):
    actor = serializers.CharField(required=False, max_length=150, help_text="Username, or `server`.")
    action = serializers.CharField(
        required=False, max_length=64, help_text="Such as `key.revoked`; `key.` for all that begin with it."
    )
    target_type = serializers.CharField(required=False, max_length=32, help_text="Such as `user` or `key`.")
    target_id = serializers.CharField(required=False, max_length=200)
    address = serializers.CharField(required=False, max_length=64)
    request_id = serializers.CharField(required=False, max_length=64)
    since = serializers.DateTimeField(required=False, help_text="Not before this time.")
    until = serializers.DateTimeField(required=False, help_text="Before this time.")


# ---------------------------------------------------------------- answers
class UserBody(serializers.Serializer[User]):
    """A user as sign-in shows it; `id` is the username."""

    id = serializers.CharField()
    role = serializers.ChoiceField(choices=Role.choices)
    permissions = serializers.ListField(child=serializers.ChoiceField(choices=LEVELS))


class AccountBody(UserBody):
    """A user as administrators see it."""

    email = serializers.CharField()
    active = serializers.BooleanField()
    created_at = serializers.DateTimeField()
    last_login_at = serializers.DateTimeField(allow_null=True)
    active_keys = serializers.IntegerField(help_text="Keys that are neither revoked nor expired.")


class KeyBody(serializers.Serializer[ApiKey]):
    """A key without its secret."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    prefix = serializers.CharField(help_text="The part of the key that may be shown.")
    owner = serializers.CharField()
    permissions = serializers.ListField(
        child=serializers.ChoiceField(choices=LEVELS), help_text="Those that its owner's role allows, too."
    )
    tier = serializers.CharField()
    state = serializers.ChoiceField(choices=ApiKey.State.choices)
    token_budget = serializers.IntegerField(allow_null=True)
    token_budget_window = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)
    rotated_at = serializers.DateTimeField(allow_null=True)
    old_key_ends_at = serializers.DateTimeField(
        allow_null=True, help_text="Until when the key from before the last rotation works."
    )
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="To the minute.")


class ChangeBody(serializers.Serializer[Any]):
    before = serializers.JSONField(allow_null=True)
    after = serializers.JSONField(allow_null=True)


class TargetBody(serializers.Serializer[Any]):
    """What was changed, as it was called then."""

    type = serializers.CharField()
    id = serializers.CharField()
    name = serializers.CharField()


class AuditEntryBody(serializers.Serializer[AuditEntry]):
    id = serializers.IntegerField()
    timestamp = serializers.DateTimeField()
    actor = serializers.CharField()
    credential = serializers.CharField(help_text="`key` and its prefix, `token`, `session`, or a command.")
    address = serializers.CharField()
    request_id = serializers.CharField()
    action = serializers.CharField()
    target = TargetBody()
    changes = serializers.DictField(child=ChangeBody())


class Success(serializers.Serializer[Any]):
    success = serializers.BooleanField()


class PageBody(Success):
    next_cursor = serializers.CharField(allow_null=True, help_text="null after the last page.")


class RefreshResponse(Success):
    token = serializers.CharField()
    expires_in = serializers.IntegerField(help_text="Seconds until the token expires.")
    user = UserBody()


class LoginResponse(RefreshResponse):
    refresh_token = serializers.CharField()


class MessageResponse(Success):
    message = serializers.CharField()


class CredentialBody(serializers.Serializer[Any]):
    """The credential that the request came with."""

    type = serializers.ChoiceField(choices=["api_key", "token"])
    permissions = serializers.ListField(child=serializers.ChoiceField(choices=LEVELS))
    tier = serializers.CharField()


class MeResponse(Success):
    user = UserBody()
    credential = CredentialBody()


class UserResponse(Success):
    user = AccountBody()


class UsersResponse(PageBody):
    users = AccountBody(many=True)


class KeyResponse(Success):
    api_key = KeyBody()


class NewKeyResponse(KeyResponse):
    key = serializers.CharField(help_text="The key itself. It is never shown again.")


class KeysResponse(PageBody):
    api_keys = KeyBody(many=True)


class AuditResponse(PageBody):
    entries = AuditEntryBody(many=True)


def user_body(user: User) -> dict[str, Any]:
    return {"id": user.username, "role": user.role, "permissions": ordered(user.permissions)}


def account_body(user: User) -> dict[str, Any]:
    """`user` comes from `selectors.get_user` or its like, which counts the keys."""
    return user_body(user) | {
        "email": user.email,
        "active": user.is_active,
        "created_at": timestamp(user.created_at),
        "last_login_at": _time(user.last_login),
        "active_keys": getattr(user, "active_keys", 0),
    }


def key_body(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.pk,
        "name": key.name,
        "prefix": key.prefix,
        "owner": key.owner.username,
        "permissions": ordered(key.permissions),
        "tier": key.tier_name,
        "state": key.state.value,
        "token_budget": key.token_budget,
        "token_budget_window": key.token_budget_window,
        "created_at": timestamp(key.created_at),
        "expires_at": _time(key.expires_at),
        "revoked_at": _time(key.revoked_at),
        "rotated_at": _time(key.rotated_at),
        "old_key_ends_at": _time(key.old_ends_at),
        "last_used_at": _time(key.last_used_at),
    }


def audit_body(entry: AuditEntry) -> dict[str, Any]:
    return {
        "id": entry.pk,
        "timestamp": timestamp(entry.at),
        "actor": entry.actor,
        "credential": entry.credential,
        "address": entry.address,
        "request_id": entry.request_id,
        "action": entry.action,
        "target": {"type": entry.target_type, "id": entry.target_id, "name": entry.target_name},
        "changes": entry.changes,
    }


def credential_body(caller: Caller) -> dict[str, Any]:
    kind: Literal["api_key", "token"] = "token" if caller.key_id is None else "api_key"
    return {"type": kind, "permissions": ordered(caller.permissions), "tier": caller.tier}


def ordered(permissions: frozenset[Permission]) -> Sequence[Permission]:
    """From the least to the most, as the contract lists them."""
    return [level for level in LEVELS if level in permissions]


def _time(moment: datetime | None) -> str | None:
    return timestamp(moment) if moment else None
