"""JSON Web Tokens: access tokens for an hour, refresh tokens for a week, and sessions that end both early."""

import hmac
import secrets
from datetime import UTC, datetime
from typing import Any, cast

from django.utils import timezone
from rest_framework_simplejwt.exceptions import TokenBackendError, TokenBackendExpiredToken, TokenError
from rest_framework_simplejwt.state import token_backend
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

from accounts.caller import Caller
from accounts.freshness import announce_change
from accounts.models import EndedSession, User
from common.errors import AuthenticationFailed

USERNAME_CLAIM = "user_id"
# Names the sign-in: what ends it ends its refresh token and all access tokens made with it.
SESSION_CLAIM = "sid"
# An HMAC over the stored password: a new password ends the tokens made under the old one.
PASSWORD_CLAIM = "pwd"  # noqa: S105  # the name of a claim, no secret


def issue(user: User) -> tuple[str, str]:
    """A new access token and a new refresh token. Nothing is stored: only sessions that end early are."""
    refresh = RefreshToken()
    refresh[USERNAME_CLAIM] = user.username
    refresh[SESSION_CLAIM] = secrets.token_hex(16)
    refresh[PASSWORD_CLAIM] = user.get_session_auth_hash()
    return str(refresh.access_token), str(refresh)


def renew(refresh_token: str) -> tuple[str, User]:
    """A new access token for a refresh token, and its user; raises AuthenticationFailed."""
    refresh = _read_refresh_token(refresh_token)
    user = _user_of(refresh)
    if user is None:
        raise _invalid()
    return str(refresh.access_token), user


def session_of(refresh_token: str, *, username: str) -> str:
    """The session of this user's refresh token; raises AuthenticationFailed for any other token."""
    refresh = _read_refresh_token(refresh_token)
    user = _user_of(refresh)
    if user is None or user.username != username:
        raise _invalid()
    return str(refresh[SESSION_CLAIM])


def end_session(session_id: str) -> None:
    """End a sign-in: its refresh token at once, its access tokens within a second in every process."""
    now = timezone.now()
    EndedSession.objects.filter(expires_at__lt=now).delete()
    EndedSession.objects.update_or_create(id=session_id, defaults={"expires_at": now + RefreshToken.lifetime})
    announce_change()


def read_access_token(token: str) -> tuple[Caller, datetime] | None:
    """The token's user as a Caller, and when it expires; None for a token that opens nothing."""
    try:
        access = AccessToken(cast("Any", token))
    except TokenError:
        return None
    user = _user_of(access)
    if user is None:
        return None
    return caller_of(user, str(access[SESSION_CLAIM])), datetime.fromtimestamp(access["exp"], UTC)


def has_our_signature(token: str) -> bool:
    """Whether this installation has made the token, whatever has become of it since."""
    if token.count(".") != 2:
        return False
    try:
        token_backend.decode(cast("Any", token))
    except TokenBackendExpiredToken:  # the signature is looked at first
        return True
    except TokenBackendError:
        return False
    return True


def caller_of(user: User, session_id: str = "") -> Caller:
    return Caller(
        identity=f"user:{user.username}",
        permissions=user.permissions,
        user_id=user.pk,
        username=user.username,
        session_id=session_id,
    )


def _read_refresh_token(token: str) -> RefreshToken:
    try:
        return RefreshToken(cast("Any", token))
    except TokenError:
        raise _invalid() from None


def _user_of(token: AccessToken | RefreshToken) -> User | None:
    """The token's user, if they may still sign in, have the same password, and have not ended the session."""
    user = User.objects.filter(username=str(token.get(USERNAME_CLAIM, "")), is_active=True).first()
    session_id = str(token.get(SESSION_CLAIM, ""))
    if user is None or not session_id:
        return None
    if not hmac.compare_digest(str(token.get(PASSWORD_CLAIM, "")), user.get_session_auth_hash()):
        return None
    return None if EndedSession.objects.filter(id=session_id).exists() else user


def _invalid() -> AuthenticationFailed:
    return AuthenticationFailed("The refresh token is not valid.")
