"""The base of every REST endpoint: who may enter, and how often."""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import msgspec
from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.browsable import may_bring_session, page_of, session_caller, wants_page
from accounts.caller import Caller, Permission, granted_by
from accounts.credentials import credential_of
from accounts.guessing import identify_from
from accounts.limits import count_request
from common import metric_catalogue
from common.client_address import counted_address
from common.envelope import ErrorResponse
from common.errors import AuthenticationFailed, MethodNotAllowed, PermissionDenied, RateLimitExceeded
from common.middleware import refusal_of
from common.passage import passage


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
        """REST framework's dispatch without its thread hops: admit, handle, and turn failures into answers."""
        self.args, self.kwargs = args, kwargs
        self.headers: dict[str, str] = {}
        self.request = self.initialize_request(request, *args, **kwargs)
        try:
            await self._admit(self.request)
            if (way := passage.get()) is not None:
                way.admitted()
            response: HttpResponseBase = await self._handler_of(self.request)(self.request, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  # the one place where failures become answers
            response = self.handle_exception(error)
        if isinstance(response, Response | ErrorResponse) and wants_page(request):
            response = await sync_to_async(page_of)(self, response)
        elif isinstance(response, Response):
            response = _rendered(response)
        for name, value in self.headers.items():
            response.headers[name] = value
        return response

    async def options(  # type: ignore[override]  # as above
        self, request: Request, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        return HttpResponse(status=204, headers={"Allow": ", ".join(self.allowed_methods)})

    def _handler_of(self, request: Request) -> Any:
        method = str(request.method).lower()
        handler = getattr(self, method, None) if method in self.http_method_names else None
        if handler is None:
            raise MethodNotAllowed(allowed=tuple(self.allowed_methods))
        return handler

    async def _admit(self, request: Request) -> None:
        """Set the caller, count the request and check the permission; raises the reason to refuse."""
        self.caller = nobody = _nobody(request)
        credential = credential_of(request)
        caller = None
        if credential and self.permission is not None:
            caller = await identify_from(counted_address(request), credential)
        if credential is None and self.permission is not None and may_bring_session(request):
            caller = await sync_to_async(session_caller)(request._request)
        is_known = caller is not None
        if caller is None:
            caller = nobody
        self.caller = caller
        if self.limit_group is not None:
            await self._count(self.limit_group)
        if (refusal := refusal_of(request)) is not None:
            raise refusal
        if self.permission is None:
            return
        if not is_known and (credential is not None or not caller.permissions):
            raise AuthenticationFailed
        needed = self._needed_permission(str(request.method))
        if needed is not None and needed not in caller.permissions:
            raise PermissionDenied(details={"required": needed})

    async def _count(self, group: str) -> None:
        usage = await count_request(group, self.caller)
        self.headers.update(usage.headers)
        if not usage.is_admitted:
            metric_catalogue.RATE_LIMITED.add(group, "anonymous" if self.caller.is_anonymous else "authenticated")
            raise RateLimitExceeded(details={"limit": usage.limit, "reset": usage.reset}, retry_after=usage.retry_after)

    def allows(self, method: str) -> bool:
        """Whether the caller of this request could also send this method."""
        needed = self._needed_permission(method)
        return needed is None or needed in self.caller.permissions

    def _needed_permission(self, method: str) -> Permission | None:
        """None for a method that the door has no rule for: it will be refused as unknown."""
        if isinstance(self.permission, Mapping):
            return self.permission.get("GET" if method == "HEAD" else method)
        return self.permission


def _nobody(request: Request) -> Caller:
    """A caller without credentials, or with bad ones."""
    return Caller(identity=f"address:{counted_address(request)}", permissions=_open_to_all())


def _open_to_all() -> frozenset[Permission]:
    """What the operator lets callers without credentials do."""
    setting = settings.ANONYMOUS_PERMISSION
    return frozenset() if setting == "none" else granted_by(cast(Permission, setting))


def _rendered(response: Response) -> HttpResponse:
    """The response as JSON bytes now: Django would render it in a thread of its own."""
    body = b"" if response.data is None else msgspec.json.encode(response.data, enc_hook=str)
    headers = {name: value for name, value in response.items() if name != "Content-Type"}
    return HttpResponse(body, status=response.status_code, content_type="application/json", headers=headers)
