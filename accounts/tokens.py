"""JSON Web Tokens: access tokens for an hour, refresh tokens that can be revoked."""

import hmac
from datetime import UTC, datetime
from typing import Any, cast

from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

from accounts.caller import Caller
from accounts.models import User
from common.errors import AuthenticationFailed

USERNAME_CLAIM = "user_id"
# An HMAC over the stored password: a new password ends the tokens made under the old one.
PASSWORD_CLAIM = "pwd"  # noqa: S105  # the name of a claim, no secret


def issue(user: User) -> tuple[str, str]:
    """A new access token and a new refresh token. Nothing is stored: only revoked tokens are."""
    refresh = RefreshToken()
    refresh[USERNAME_CLAIM] = user.username
    refresh[PASSWORD_CLAIM] = user.get_session_auth_hash()
    return str(refresh.access_token), str(refresh)


def renew(refresh_token: str) -> tuple[str, User]:
    """A new access token for a refresh token, and its user; raises AuthenticationFailed."""
    refresh = _read_refresh_token(refresh_token)
    user = _user_of(refresh)
    if user is None:
        raise _invalid()
    return str(refresh.access_token), user


def revoke(refresh_token: str, *, username: str) -> None:
    """Blacklist a refresh token of this user; raises AuthenticationFailed for any other."""
    refresh = _read_refresh_token(refresh_token)
    if refresh.get(USERNAME_CLAIM) != username:
        raise _invalid()
    refresh.blacklist()


def read_access_token(token: str) -> tuple[Caller, datetime] | None:
    """The token's user as a Caller, and when it expires; None for a token that opens nothing."""
    try:
        access = AccessToken(cast("Any", token))
    except TokenError:
        return None
    user = _user_of(access)
    return (caller_of(user), datetime.fromtimestamp(access["exp"], UTC)) if user else None


def caller_of(user: User) -> Caller:
    return Caller(
        identity=f"user:{user.username}", permissions=user.permissions, user_id=user.pk, username=user.username
    )


def _read_refresh_token(token: str) -> RefreshToken:
    try:
        return RefreshToken(cast("Any", token))
    except TokenError:
        raise _invalid() from None


def _user_of(token: AccessToken | RefreshToken) -> User | None:
    user = User.objects.filter(username=str(token.get(USERNAME_CLAIM, "")), is_active=True).first()
    if user is None:
        return None
    claimed = str(token.get(PASSWORD_CLAIM, ""))
    return user if hmac.compare_digest(claimed, user.get_session_auth_hash()) else None


def _invalid() -> AuthenticationFailed:
    return AuthenticationFailed("The refresh token is not valid.")
