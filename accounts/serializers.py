"""What the sign-in doors take and give."""

from typing import Any, Literal

from rest_framework import serializers

from accounts.caller import LEVELS, Caller, Permission
from accounts.models import Role, User
from common.serializers import StrictSerializer


class LoginRequest(StrictSerializer):
    username = serializers.CharField(max_length=150)
    password = serializers.CharField(max_length=1000, trim_whitespace=False, style={"input_type": "password"})


class RefreshRequest(StrictSerializer):
    refresh_token = serializers.CharField(max_length=4096)


class UserBody(serializers.Serializer[User]):
    """A user as the API shows it; `id` is the username."""

    id = serializers.CharField()
    role = serializers.ChoiceField(choices=Role.choices)
    permissions = serializers.ListField(child=serializers.ChoiceField(choices=LEVELS))


class LoginResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    token = serializers.CharField()
    refresh_token = serializers.CharField()
    expires_in = serializers.IntegerField(help_text="Seconds until the token expires.")
    user = UserBody()


class RefreshResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    token = serializers.CharField()
    expires_in = serializers.IntegerField(help_text="Seconds until the token expires.")
    user = UserBody()


class MessageResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    message = serializers.CharField()


class CredentialBody(serializers.Serializer[Any]):
    """The credential that the request came with."""

    type = serializers.ChoiceField(choices=["api_key", "token"])
    permissions = serializers.ListField(child=serializers.ChoiceField(choices=LEVELS))
    tier = serializers.ChoiceField(choices=["standard", "premium"])


class MeResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    user = UserBody()
    credential = CredentialBody()


def user_body(user: User) -> dict[str, Any]:
    return {"id": user.username, "role": user.role, "permissions": ordered(user.permissions)}


def credential_body(caller: Caller) -> dict[str, Any]:
    kind: Literal["api_key", "token"] = "token" if caller.key_id is None else "api_key"
    return {"type": kind, "permissions": ordered(caller.permissions), "tier": caller.tier}


def ordered(permissions: frozenset[Permission]) -> list[Permission]:
    """From the least to the most, as the contract lists them."""
    return [level for level in LEVELS if level in permissions]
