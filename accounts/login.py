"""Signing in with a name and a password."""

import hashlib

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.hashers import make_password

from accounts.limits import count
from accounts.models import User
from common.errors import AuthenticationFailed, RateLimitExceeded

THROTTLE_SECONDS = 60


async def log_in(*, username: str, password: str, address: str) -> User:
    """The user whose credentials these are. Raises AuthenticationFailed, or RateLimitExceeded for too many tries."""
    await _throttle("login-address", address)
    await _throttle("login-username", hashlib.sha256(username.casefold().encode()).hexdigest())
    user = await sync_to_async(_checked)(username, password)
    if user is None:
        raise AuthenticationFailed("The username or the password is wrong.")
    return user


async def _throttle(kind: str, name: str) -> None:
    usage = await count(f"{kind}:{name}", limit=settings.LOGIN_ATTEMPTS_PER_MINUTE, window=THROTTLE_SECONDS)
    if not usage.is_admitted:
        raise RateLimitExceeded("Too many attempts to log in.", retry_after=usage.retry_after)


def _checked(username: str, password: str) -> User | None:
    """Hashes once whatever happens, so that the time tells nobody which names exist or are disabled."""
    user = User.objects.filter(username=username).first()
    if user is None or not user.has_usable_password():
        make_password(password)
        return None
    return user if user.check_password(password) and user.is_active else None
