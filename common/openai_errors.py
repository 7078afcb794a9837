"""A failure in the shape that OpenAI's clients read, for everything under /v1/."""

from typing import Any

from common.errors import ApiError

_TYPES = {401: "invalid_request_error", 403: "permission_error", 429: "requests"}
_CODES = {
    "AUTHENTICATION_FAILED": "invalid_api_key",
    "PERMISSION_DENIED": "insufficient_permissions",
    "INTERNAL_ERROR": "server_error",
    "CONTENT_BLOCKED": "content_filter",
}


def openai_failure(error: ApiError) -> dict[str, Any]:
    """The body of a failed request: a message, OpenAI's type, the parameter at fault if one is, and a code."""
    return {
        "error": {
            "message": error.message,
            "type": _type_of(error),
            "param": "model" if error.code == "MODEL_NOT_FOUND" else error.details.get("field"),
            "code": _code_of(error),
        }
    }


def _type_of(error: ApiError) -> str:
    if error.status == 429 and "token_budget" in error.details:
        return "tokens"
    return _TYPES.get(error.status) or ("server_error" if error.status >= 500 else "invalid_request_error")


def _code_of(error: ApiError) -> str | None:
    if error.code == "INVALID_INPUT":
        if "context_length" in error.details:
            return "context_length_exceeded"
        reason: str | None = error.details.get("reason")
        return reason
    return _CODES.get(error.code, error.code.lower())
