"""Which other sites' pages may call the API from a browser: none, unless settings.CORS_ORIGINS names them.

The API takes no cookies, so a page can only do what the credential that it holds allows; credentials mode stays off.
"""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

ANY = "*"
_PREFLIGHT_SECONDS = 600
_METHODS = "GET, POST, PUT, PATCH, DELETE"
_REQUEST_HEADERS = "Authorization, Content-Type, Prefer, X-API-Key, X-API-Version, X-Request-ID"
_RESPONSE_HEADERS = (
    "Retry-After, X-API-Version, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, X-Request-ID, "
    "X-TokenBudget-Limit, X-TokenBudget-Remaining, X-TokenBudget-Reset"
)


def preflight(request: HttpRequest) -> HttpResponse | None:
    """The answer to a browser that asks whether a page may call; None if it does not ask, or the page may not."""
    if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
        return None
    if _allowed_origin(request) is None:
        return None
    return HttpResponse(
        status=204,
        headers={
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _REQUEST_HEADERS,
            "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
        },
    )


def allow_origin(request: HttpRequest, response: HttpResponseBase) -> None:
    """Let the page that called read the answer, if its site is allowed."""
    if not settings.CORS_ORIGINS:
        return
    if ANY not in settings.CORS_ORIGINS:
        patch_vary_headers(response, ["Origin"])
    if (origin := _allowed_origin(request)) is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _RESPONSE_HEADERS


def _allowed_origin(request: HttpRequest) -> str | None:
    origin = request.headers.get("Origin")
    if origin is None:
        return None
    if ANY in settings.CORS_ORIGINS:
        return ANY
    return origin if origin.lower() in settings.CORS_ORIGINS else None
