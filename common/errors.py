"""The one tree of errors that reach a client. It knows no Django, so that any part of the product can raise from it."""

from collections.abc import Mapping
from typing import Any, ClassVar


class ApiError(Exception):
    """A failure with the code, the status and the words that its caller may see.

    `details` must be safe to show. `retry_after`: seconds after which another try makes sense.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    default_message: ClassVar[str] = "The server failed to handle this request."

    def __init__(
        self,
        message: str | None = None,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after = retry_after
        super().__init__(self.message)

    @property
    def headers(self) -> dict[str, str]:
        """The response headers that belong to this failure."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


class InvalidInput(ApiError):
    """The request is wrong; `field` names the part of it that is, where there is one."""

    code = "INVALID_INPUT"
    status = 400
    default_message = "The request is not valid."

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        named = {"field": field} if field is not None else {}
        super().__init__(message, details={**(details or {}), **named}, retry_after=retry_after)


class AuthenticationFailed(ApiError):
    code = "AUTHENTICATION_FAILED"
    status = 401
    default_message = "Send a valid API key or token in the Authorization or X-API-Key header."

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "WWW-Authenticate": "Bearer"}


class PermissionDenied(ApiError):
    code = "PERMISSION_DENIED"
    status = 403
    default_message = "Your permissions do not allow this."


class NotFound(ApiError):
    code = "NOT_FOUND"
    status = 404
    default_message = "There is nothing at this address."


class ModelNotFound(ApiError):
    code = "MODEL_NOT_FOUND"
    status = 404
    default_message = "The model is not available."


class PluginNotFound(ApiError):
    code = "PLUGIN_NOT_FOUND"
    status = 404
    default_message = "The plugin is not available."


class MethodNotAllowed(ApiError):
    """`allowed`: the methods that the address does take."""

    code = "METHOD_NOT_ALLOWED"
    status = 405
    default_message = "This address does not take this method."

    def __init__(self, message: str | None = None, *, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(message, details={"allowed": list(allowed)} if allowed else None)
        self.allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "Allow": ", ".join(self.allowed)} if self.allowed else super().headers


class Conflict(ApiError):
    """The request is right, but not in the state that things are in."""

    code = "CONFLICT"
    status = 409
    default_message = "That is not possible in the present state."


class PayloadTooLarge(ApiError):
    code = "PAYLOAD_TOO_LARGE"
    status = 413
    default_message = "The request body is too large."


class UnsupportedMediaType(ApiError):
    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415
    default_message = "Send the body as application/json, encoded in UTF-8."


class RateLimitExceeded(ApiError):
    code = "RATE_LIMIT_EXCEEDED"
    status = 429
    default_message = "Too many requests."


class InternalError(ApiError):
    """Our own fault; its cause stays in the log."""


class ModelLoadFailed(ApiError):
    code = "MODEL_LOAD_FAILED"
    default_message = "The model could not be loaded."


class InferenceFailed(ApiError):
    code = "INFERENCE_FAILED"
    default_message = "The inference failed."


class ContentBlocked(ApiError):
    """A plugin has stopped the answer."""

    code = "CONTENT_BLOCKED"
    status = 422
    default_message = "The answer was blocked by a filter of this server."


class PluginLoadFailed(ApiError):
    code = "PLUGIN_LOAD_FAILED"
    default_message = "The plugin could not be loaded."


class InsufficientMemory(ApiError):
    code = "INSUFFICIENT_MEMORY"
    status = 503
    default_message = "There is not enough memory for this."


# The `reason` in the details of a BackendUnavailable for a load that was given up for an unload.
UNLOADED = "unloaded"


class BackendUnavailable(ApiError):
    code = "BACKEND_UNAVAILABLE"
    status = 503
    default_message = "The service that this request needs is not available now."


def from_code(code: str, message: str | None = None, details: Mapping[str, Any] | None = None) -> ApiError:
    """The error for a code that came over the wire; an unknown code becomes an InternalError without its words."""
    kind = _BY_CODE.get(code)
    return kind(message, details=details) if kind else InternalError()


_BY_CODE: dict[str, type[ApiError]] = {
    kind.code: kind
    for kind in (
        InvalidInput,
        AuthenticationFailed,
        PermissionDenied,
        NotFound,
        ModelNotFound,
        PluginNotFound,
        Conflict,
        PayloadTooLarge,
        UnsupportedMediaType,
        RateLimitExceeded,
        InternalError,
        ModelLoadFailed,
        InferenceFailed,
        ContentBlocked,
        PluginLoadFailed,
        InsufficientMemory,
        BackendUnavailable,
    )
}
