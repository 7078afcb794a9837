"""Django's middlewares for browsers' pages; API paths pass them by, since they cost more than an answer."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.common import CommonMiddleware
from django.middleware.csrf import CsrfViewMiddleware
from django.middleware.security import SecurityMiddleware
from whitenoise.middleware import WhiteNoiseMiddleware

from common.middleware import is_api_path


class PagesOnly:
    """Mixed in before a middleware class: API paths go straight on."""

    get_response: Callable[[HttpRequest], Any]

    def __call__(self, request: HttpRequest) -> Any:
        if is_api_path(request.path_info):
            return self.get_response(request)
        return super().__call__(request)  # type: ignore[misc]  # the middleware class has it


class PageSecurity(PagesOnly, SecurityMiddleware): ...


class PageSession(PagesOnly, SessionMiddleware): ...


class PageCommon(PagesOnly, CommonMiddleware): ...


class PageAuthentication(PagesOnly, AuthenticationMiddleware): ...


class PageMessages(PagesOnly, MessageMiddleware): ...


class PageFraming(PagesOnly, XFrameOptionsMiddleware): ...


class PageCsrf(PagesOnly, CsrfViewMiddleware):
    async def process_view(  # type: ignore[override]  # Django awaits hooks that are coroutines
        self, request: HttpRequest, callback: Callable[..., Any], callback_args: Any, callback_kwargs: Any
    ) -> HttpResponseBase | None:
        if is_api_path(request.path_info):
            return None
        check = sync_to_async(super().process_view)
        return await check(request, callback, callback_args, callback_kwargs)


class PageStatics(WhiteNoiseMiddleware):  # type: ignore[misc]  # untyped
    """WhiteNoise for a chain of coroutines: its own class would push every request through a thread."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        super().__init__(get_response)
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if not request.path_info.startswith(self.static_prefix):
            return self.get_response(request)
        if self._is_async:
            return self._serve_or_pass(request)
        return self._served(request) or self.get_response(request)

    async def _serve_or_pass(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = await sync_to_async(self._served)(request) or await self.get_response(request)
        return response

    def _served(self, request: HttpRequest) -> HttpResponse | None:
        """The file's response, read whole: an asynchronous server cannot send a synchronous stream well."""
        path = request.path_info
        static_file = self.find_file(path) if self.autorefresh else self.files.get(path)
        if static_file is None:
            return None
        answer = static_file.get_response(request.method, request.META)
        with answer.file or BytesIO() as file:
            response = HttpResponse(file.read(), status=int(answer.status))
        for name, value in answer.headers:
            response.headers[name] = value
        return response
