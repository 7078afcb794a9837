"""Signing in with a name and a password."""

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Any

import redis
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string

from accounts.limits import Usage, count, count_now
from accounts.models import User
from common.client_address import counted_address
from common.errors import AuthenticationFailed, RateLimitExceeded
from common.exception_handler import to_api_error

View = Callable[..., HttpResponseBase]
THROTTLE_SECONDS = 60


async def log_in(*, username: str, password: str, address: str) -> User:
    """The user whose credentials these are. Raises AuthenticationFailed, or RateLimitExceeded for too many tries."""
    for name in _counted(username, address):
        _check(await count(name, limit=settings.LOGIN_ATTEMPTS_PER_MINUTE, window=THROTTLE_SECONDS))
    user = await sync_to_async(_checked)(username, password)
    if user is None:
        raise AuthenticationFailed("The username or the password is wrong.")
    return user


def throttled(view: View) -> View:
    """A sign-in page for browsers, whose tries count as those of the API do."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method == "POST":
            try:
                for name in _counted(request.POST.get("username", ""), counted_address(request)):
                    _check(count_now(name, limit=settings.LOGIN_ATTEMPTS_PER_MINUTE, window=THROTTLE_SECONDS))
            except (RateLimitExceeded, redis.RedisError) as error:
                refusal = to_api_error(error)
                page = render_to_string("accounts/sign_in_refused.html", {"refusal": refusal})
                return HttpResponse(page, status=refusal.status, headers=refusal.headers)
        return view(request, *args, **kwargs)

    return guarded


def _counted(username: str, address: str) -> tuple[str, str]:
    """What a try counts against."""
    return f"login-address:{address}", f"login-username:{hashlib.sha256(username.casefold().encode()).hexdigest()}"


def _check(usage: Usage) -> None:
    if not usage.is_admitted:
        raise RateLimitExceeded("Too many attempts to log in.", retry_after=usage.retry_after)


def _checked(username: str, password: str) -> User | None:
    """Hashes once whatever happens, so that the time tells nobody which names exist or are disabled."""
    user = User.objects.filter(username=username).first()
    if user is None or not user.has_usable_password():
        make_password(password)
        return None
    return user if user.check_password(password) and user.is_active else None
