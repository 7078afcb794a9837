"""The base of every REST endpoint: who may enter, and how often."""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.caller import Caller, Permission, granted_by
from accounts.credentials import credential_of, identify
from accounts.limits import Usage, count_request
from common.client_address import counted_address
from common.errors import AuthenticationFailed, MethodNotAllowed, PermissionDenied, RateLimitExceeded


class Door(APIView):
    """An async endpoint. Its handlers are coroutines; `self.caller` says who calls.

    `permission`: what it takes to enter, for all methods or by method; None opens the door to everybody.
    `limit_group`: the group of settings.RATE_LIMITS that its requests count in; None counts nothing.
    """

    permission: ClassVar[Permission | Mapping[str, Permission] | None] = "read"
    limit_group: ClassVar[str | None] = None

    caller: Caller

    async def dispatch(  # type: ignore[override]  # Django awaits it: every handler is a coroutine
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        """REST framework's dispatch without its thread hop: admit, handle, and turn failures into answers."""
        self.args, self.kwargs = args, kwargs
        self.headers: dict[str, str] = {}
        self.format_kwarg = None
        self.request = self.initialize_request(request, *args, **kwargs)
        renderer, media_type = self.perform_content_negotiation(self.request)
        self.request.accepted_renderer, self.request.accepted_media_type = renderer, media_type
        try:
            await self._admit(self.request)
            response = await self._handler_of(self.request)(self.request, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  # the one place where failures become answers
            response = self.handle_exception(error)
        return self.finalize_response(self.request, response, *args, **kwargs)

    async def options(  # type: ignore[override]  # as above
        self, request: Request, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        return HttpResponse(status=204, headers={"Allow": ", ".join(self.allowed_methods)})

    def _handler_of(self, request: Request) -> Any:
        handler = getattr(self, str(request.method).lower(), None)
        if handler is None or str(request.method).lower() not in self.http_method_names:
            raise MethodNotAllowed(allowed=tuple(self.allowed_methods))
        return handler

    async def _admit(self, request: Request) -> None:
        """Set the caller, count the request and check the permission; raises the reason to refuse."""
        needed = self._needed_permission(str(request.method))
        if self.permission is None:
            return
        caller = await self._identified(request)
        if caller is None:
            visitor = Caller(identity=f"address:{counted_address(request)}", permissions=_open_to_all())
            await self._count(visitor)
            if credential_of(request) is not None or not visitor.permissions:
                raise AuthenticationFailed
            caller = visitor
        else:
            await self._count(caller)
        self.caller = caller
        request.auth = caller
        if needed is not None and needed not in caller.permissions:
            raise PermissionDenied(details={"required": needed})

    async def _identified(self, request: Request) -> Caller | None:
        credential = credential_of(request)
        return await identify(credential) if credential else None

    async def _count(self, caller: Caller) -> None:
        if self.limit_group is None:
            return
        usage: Usage = await count_request(self.limit_group, caller)
        self.headers.update(usage.headers)
        if not usage.is_admitted:
            raise RateLimitExceeded(details={"limit": usage.limit, "reset": usage.reset}, retry_after=usage.retry_after)

    def _needed_permission(self, method: str) -> Permission | None:
        """None for a method that the door has no rule for: it will be refused as unknown."""
        if isinstance(self.permission, Mapping):
            return self.permission.get("GET" if method == "HEAD" else method)
        return self.permission


def _open_to_all() -> frozenset[Permission]:
    """What the operator lets callers without credentials do."""
    setting = settings.ANONYMOUS_PERMISSION
    return frozenset() if setting == "none" else granted_by(cast(Permission, setting))
