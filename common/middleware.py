"""What every request gets, whatever answers it: an id, the version headers, and one shape of failure under /api/.

Under /v1/ it is OpenAI's shape.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from common import errors, metric_catalogue
from common.body_limits import body_limit
from common.client_address import comes_from_trusted_proxy
from common.cors import allow_origin, preflight
from common.envelope import ErrorResponse
from common.openai_errors import openai_failure
from common.passage import CLIENT_LEFT, Passage, passage
from common.request_id import is_well_formed, new_request_id, request_id

API_ROOTS = ("/api/", "/v1/", "/health/", "/metrics/")
SUPPORTED_VERSIONS = ("1", "1.0")
_TRACE_HEADERS = ("traceparent", "tracestate")
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# A browser that is made to show an answer of the API runs and loads nothing of it, and shows it in no other page.
_API_POLICY = "default-src 'none'; frame-ancestors 'none'"
_BY_STATUS: dict[int, type[errors.ApiError]] = {
    400: errors.InvalidInput,
    401: errors.AuthenticationFailed,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.PayloadTooLarge,
    415: errors.UnsupportedMediaType,
    503: errors.BackendUnavailable,
}


def is_api_path(path: str) -> bool:
    """Whether machines call this path: it takes no cookies and needs no page middleware."""
    return _is_under(path, *API_ROOTS)


def refusal_of(request: HttpRequest) -> errors.ApiError | None:
    """Why the request can't be answered, whatever it asks for. A door counts it, then raises this."""
    refusal: errors.ApiError | None = cast("Any", request).refusal
    return refusal


class ApiMiddleware:
    """Outermost: sets the request id, checks version and size, drops a trailing slash, and mends bare failures."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._answer(request)
        early = _begin(request)
        return _finish(request, early or cast(HttpResponseBase, self.get_response(request)))

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        early = _begin(request)
        try:
            return _finish(request, early or cast(HttpResponseBase, await self.get_response(request)))
        except asyncio.CancelledError:  # the client has gone
            _observe(request, CLIENT_LEFT)
            raise


def _is_under(path: str, *roots: str) -> bool:
    return f"{path}/".startswith(roots)


def _begin(request: HttpRequest) -> HttpResponse | None:
    """Prepare the request. Returns the answer to one that asks nothing of the site itself."""
    cast("Any", request).refusal = None
    is_traced = _is_under(request.path_info, "/api/", "/v1/")
    passage.set(Passage(_trace_context(request) if is_traced else None))
    sent = request.headers.get("X-Request-ID", "")
    request_id.set(sent if is_well_formed(sent) else new_request_id())
    if "HTTP_X_FORWARDED_PROTO" in request.META and not comes_from_trusted_proxy(request):
        del request.META["HTTP_X_FORWARDED_PROTO"]
    if not is_api_path(request.path_info):
        return None
    request.path_info = request.path_info.rstrip("/")
    if _is_under(request.path_info, "/api/", "/v1/"):
        try:
            _check(request)
        except errors.ApiError as error:
            cast("Any", request).refusal = error
    return preflight(request)


def _check(request: HttpRequest) -> None:
    try:
        request.get_host()
    except DisallowedHost:
        raise errors.InvalidInput(
            "This host name is not served here; add it to LLAMA_GPU_ALLOWED_HOSTS.", field="Host"
        ) from None
    version = request.headers.get("X-API-Version", "1")
    if version not in SUPPORTED_VERSIONS:
        raise errors.InvalidInput(
            "This API version is not supported.", field="X-API-Version", details={"supported": [*SUPPORTED_VERSIONS]}
        )
    if _body_length(request) > (limit := body_limit(request.path_info)):
        raise errors.PayloadTooLarge(details={"max_bytes": limit})


def _body_length(request: HttpRequest) -> int:
    """The body's length in bytes. A chunked body has no header that tells it, and the parsers need one: it is added."""
    if "chunked" in request.headers.get("Transfer-Encoding", "").lower():
        body = cast("Any", request)._stream  # Django has received it whole, on disk if it is large
        request.META["CONTENT_LENGTH"] = str(body.seek(0, os.SEEK_END))
        body.seek(0)
    try:
        return int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        raise errors.InvalidInput("The header is not a number.", field="Content-Length") from None


def _finish(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    is_bare = not isinstance(response, ErrorResponse)
    if is_bare and (refusal := refusal_of(request)) is not None:
        response = ErrorResponse(refusal)  # no door has seen it
    elif is_bare and response.status_code >= 400 and _is_under(request.path_info, "/api/", "/v1/"):
        response = _mended(response)
    if isinstance(response, ErrorResponse) and _is_under(request.path_info, "/v1/"):
        _reshape(response)
    if not response.streaming and "Content-Length" not in response.headers:
        response.headers["Content-Length"] = str(len(cast(HttpResponse, response).content))
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Request-ID"] = request_id.get()
    response.headers["X-API-Version"] = settings.API_VERSION
    if is_api_path(request.path_info):
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("Content-Security-Policy", _API_POLICY)
        allow_origin(request, response)
    else:
        response.headers.setdefault("Content-Security-Policy", settings.PAGE_POLICY)
    if response.cookies and request.is_secure():
        for cookie in response.cookies.values():
            cookie["secure"] = True
    _observe(request, response.status_code, response)
    return response


def _trace_context(request: HttpRequest) -> dict[str, str]:
    return {name: request.headers[name] for name in _TRACE_HEADERS if name in request.headers}


def _observe(request: HttpRequest, code: int, response: HttpResponseBase | None = None) -> None:
    """Count the answer, and end the request's passage with it; a stream's end is later than its beginning."""
    way = passage.get()
    if way is None or not is_api_path(request.path_info):
        return
    method = str(request.method) if request.method in _KNOWN_METHODS else "OTHER"
    # Never the path itself: whoever asks for many paths would make as many series.
    route = f"/{request.resolver_match.route}" if request.resolver_match else "unknown"
    metric_catalogue.HTTP_REQUESTS.add(method, route, str(code))
    metric_catalogue.HTTP_SECONDS.observe(route, value=way.age)
    sent_id = request_id.get()

    def over() -> None:
        way.over(method=method, route=route, code=code, request_id=sent_id)

    if response is not None and response.streaming:
        cast("Any", response)._resource_closers.append(over)
    else:
        over()


def _reshape(response: ErrorResponse) -> None:
    """Put OpenAI's body in the place of ours, unless it has become a page."""
    if response.headers["Content-Type"] == "application/json":
        response.content = json.dumps(openai_failure(response.error), default=str).encode()


def _mended(response: HttpResponseBase) -> HttpResponseBase:
    """Django's own answer (unknown route, crash outside a door) in the shape that the API promises."""
    kind = _BY_STATUS.get(response.status_code, errors.InternalError)
    mended = ErrorResponse(kind())
    if "Allow" in response.headers:
        mended.headers["Allow"] = response.headers["Allow"]
    return mended
