"""The API as pages for a browser, and for the pages of the dashboard: with the session of who is signed in.

Only a request that accepts HTML gets a page. It, and a request with a CSRF token's header, may come with a session
instead of a credential: programs never do, and pages of other sites can't. All writes need the token itself.
"""

import inspect
import json
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest, HttpResponse
from rest_framework.authentication import CSRFCheck
from rest_framework.renderers import BrowsableAPIRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.caller import Caller
from accounts.models import User
from accounts.tokens import caller_of
from common.envelope import ErrorResponse
from common.errors import PermissionDenied

MEDIA_TYPE = "text/html"


def wants_page(request: HttpRequest | Request) -> bool:
    return MEDIA_TYPE in request.META.get("HTTP_ACCEPT", "")


def may_bring_session(request: HttpRequest | Request) -> bool:
    """Whether a cookie counts: a browser sends the header for no other site's page without asking us first."""
    return wants_page(request) or settings.CSRF_HEADER_NAME in request.META


def session_caller(request: HttpRequest) -> Caller | None:
    """Who is signed in; None for nobody. Raises PermissionDenied for a write without a CSRF token."""
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if key is None:
        return None
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    user = get_user(request)
    if not isinstance(user, User):
        return None
    check = CSRFCheck(_nothing)
    check.process_request(request)
    if check.process_view(request, _nothing, (), {}):
        raise PermissionDenied("The page's CSRF token is missing or wrong; load the page again.")
    return caller_of(user)


def page_of(door: Any, response: Response | ErrorResponse) -> HttpResponse:
    """The answer as a page with the door's description and forms for what the caller may do."""
    is_error = isinstance(response, ErrorResponse)
    data = json.loads(response.content) if isinstance(response, ErrorResponse) else response.data
    context = {"view": door, "request": door.request, "response": response, "args": door.args, "kwargs": door.kwargs}
    html = _PageRenderer().render(data, MEDIA_TYPE, context)
    page = response if is_error else HttpResponse(status=response.status_code)
    page.content = html.encode()
    for name, value in response.items():
        page.headers[name] = value
    page.headers["Content-Type"] = f"{MEDIA_TYPE}; charset=utf-8"
    page.headers["Content-Security-Policy"] = settings.PAGE_POLICY
    page.headers["Vary"] = "Accept, Cookie"
    return page


def _nothing(request: HttpRequest) -> HttpResponse:
    """The view that Django's check of CSRF tokens is made around; it is never called."""
    return HttpResponse()


class _PageRenderer(BrowsableAPIRenderer):
    """REST framework's own, with the doors' rules instead of its permission classes."""

    def show_form_for_method(self, view: Any, method: str, request: Request, obj: Any) -> bool:
        return method in view.allowed_methods and view.allows(method)

    def get_context(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Without the button for OPTIONS, whose answer has no page."""
        return {**super().get_context(*args, **kwargs), "options_form": None}

    def get_description(self, view: Any, status_code: int) -> str:
        handler = getattr(view, str(view.request.method).lower(), None)
        return inspect.getdoc(handler) or ""
