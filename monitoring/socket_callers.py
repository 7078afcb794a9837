"""Who opens a socket: by the rules of the REST doors (`accounts.doors`), and again for as long as it stays open."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any, cast
from urllib.parse import urlsplit

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from redis.exceptions import RedisError

from accounts.browsable import session_caller
from accounts.caller import Caller, Permission, granted_by
from accounts.credentials import credential_of, identify
from accounts.guessing import identify_from
from accounts.limits import count_request
from common.client_address import counted_address
from common.cors import ANY
from common.errors import AuthenticationFailed, BackendUnavailable, InvalidInput, PermissionDenied, RateLimitExceeded

_LIMIT_GROUP = "system"


class Entrant:
    """Somebody at the door of a socket. `token`: the key or JWT that they gave in a message, if not in a header.

    `takes_session`: whether the cookie of a signed-in browser counts, if no other credential is there.
    """

    def __init__(self, scope: Mapping[str, Any], *, takes_session: bool) -> None:
        self._request = ASGIRequest({**scope, "method": "GET"}, BytesIO())
        self._takes_session = takes_session and is_same_site(self._request)
        self.token: str | None = None

    @property
    def has_credential(self) -> bool:
        """Whether they have shown anything that tells who they are."""
        return self._credential is not None or self._has_session

    async def admit(self) -> Caller:
        """Let them in, counted. Raises the ApiError to refuse them with."""
        self._check_host()
        try:
            caller = await self._identify_at_the_door()
            counted = caller or Caller(identity=f"address:{counted_address(self._request)}", permissions=frozenset())
            usage = await count_request(_LIMIT_GROUP, counted)
        except RedisError:
            raise BackendUnavailable(retry_after=1) from None
        if not usage.is_admitted:
            details = {"limit": usage.limit, "reset": usage.reset}
            raise RateLimitExceeded(details=details, retry_after=usage.retry_after)
        if caller is None:
            raise AuthenticationFailed("Send a valid API key or token.")
        if "read" not in caller.permissions:
            raise PermissionDenied(details={"required": "read"})
        return caller

    async def _identify_at_the_door(self) -> Caller | None:
        """As `identify`, with guesses slowed."""
        if (credential := self._credential) is not None:
            return await identify_from(counted_address(self._request), credential)
        return await self.identify()

    async def identify(self) -> Caller | None:
        """Who it is now; None for nobody who may come in."""
        if (credential := self._credential) is not None:
            return await identify(credential)
        if self._has_session:
            return await sync_to_async(session_caller)(self._request)
        return self._anonymous()

    @property
    def _credential(self) -> str | None:
        return credential_of(self._request) if self.token is None else self.token

    @property
    def _has_session(self) -> bool:
        return self._takes_session and settings.SESSION_COOKIE_NAME in self._request.COOKIES

    def _anonymous(self) -> Caller | None:
        if settings.ANONYMOUS_PERMISSION == "none":
            return None
        permissions = granted_by(cast(Permission, settings.ANONYMOUS_PERMISSION))
        return Caller(identity=f"address:{counted_address(self._request)}", permissions=permissions)

    def _check_host(self) -> None:
        try:
            self._request.get_host()
        except DisallowedHost:
            raise InvalidInput("This host name is not served here.", field="Host") from None


def is_same_site(request: ASGIRequest) -> bool:
    """Whether no page of another site has opened this: browsers name the page's origin, and send cookies to anyone."""
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("Host", "")


def may_connect(origin: str | None, host: str) -> bool:
    """Whether pages of this origin may open a socket with a key of their own: ours, and those that the API allows."""
    if origin is None or urlsplit(origin).netloc == host:
        return True
    return ANY in settings.CORS_ORIGINS or origin.lower() in settings.CORS_ORIGINS
