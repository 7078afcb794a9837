"""What every request gets, whatever answers it: an id, the version headers, and one shape of failure under /api/."""

import os
from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from common import errors
from common.envelope import ErrorResponse
from common.request_id import is_well_formed, new_request_id, request_id

API_ROOTS = ("/api/", "/v1/", "/health/", "/metrics/")
SUPPORTED_VERSIONS = ("1", "1.0")
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
        _begin(request)
        refusal = _refusal(request)
        return _finish(request, refusal or cast(HttpResponseBase, self.get_response(request)))

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        _begin(request)
        refusal = _refusal(request)
        return _finish(request, refusal or cast(HttpResponseBase, await self.get_response(request)))


def _is_under(path: str, *roots: str) -> bool:
    return f"{path}/".startswith(roots)


def _begin(request: HttpRequest) -> None:
    sent = request.headers.get("X-Request-ID", "")
    request_id.set(sent if is_well_formed(sent) else new_request_id())
    if is_api_path(request.path_info):
        request.path_info = request.path_info.rstrip("/")


def _refusal(request: HttpRequest) -> ErrorResponse | None:
    """The answer to a request under /api/ or its like that is wrong whatever it asks for."""
    if not _is_under(request.path_info, "/api/", "/v1/"):
        return None
    try:
        _check(request)
    except errors.ApiError as error:
        return ErrorResponse(error)
    return None


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
    if _body_length(request) > settings.MAX_BODY_BYTES:
        raise errors.PayloadTooLarge(details={"max_bytes": settings.MAX_BODY_BYTES})


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
    is_bare = response.status_code >= 400 and not isinstance(response, ErrorResponse)
    if is_bare and _is_under(request.path_info, "/api/"):
        response = _mended(response)
    if not response.streaming and "Content-Length" not in response.headers:
        response.headers["Content-Length"] = str(len(cast(HttpResponse, response).content))
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Request-ID"] = request_id.get()
    response.headers["X-API-Version"] = settings.API_VERSION
    return response


def _mended(response: HttpResponseBase) -> HttpResponseBase:
    """Django's own answer (unknown route, crash outside a door) in the shape that the API promises."""
    kind = _BY_STATUS.get(response.status_code, errors.InternalError)
    mended = ErrorResponse(kind())
    if "Allow" in response.headers:
        mended.headers["Allow"] = response.headers["Allow"]
    return mended
