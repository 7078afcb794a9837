"""Turns whatever a door raises into the one failure body."""

import logging
from collections.abc import Iterable
from typing import Any

import redis.exceptions
from django.core import exceptions as django_exceptions
from django.db import OperationalError
from django.http import Http404, UnreadablePostError
from rest_framework import exceptions as drf

from common import errors
from common.envelope import ErrorResponse

logger = logging.getLogger(__name__)
RETRY_SECONDS = 5


def handle_exception(exc: Exception, context: dict[str, Any]) -> ErrorResponse:
    """REST framework's exception handler: every failure becomes an ErrorResponse; the unexpected ones are logged."""
    return ErrorResponse(to_api_error(exc))


def to_api_error(exc: Exception) -> errors.ApiError:
    """The error of our tree that stands for `exc`. An unknown one is logged and becomes an InternalError."""
    if isinstance(exc, errors.ApiError):
        return exc
    if isinstance(exc, drf.APIException):
        return _from_rest_framework(exc)
    if isinstance(exc, Http404):
        return errors.NotFound()
    if isinstance(exc, django_exceptions.PermissionDenied):
        return errors.PermissionDenied()
    if isinstance(exc, django_exceptions.RequestDataTooBig):
        return errors.PayloadTooLarge()
    if isinstance(exc, django_exceptions.SuspiciousOperation | UnreadablePostError):
        return errors.InvalidInput()
    if isinstance(exc, redis.exceptions.ConnectionError | redis.exceptions.TimeoutError):
        logger.error("Redis cannot be reached: %s", type(exc).__name__)
        return errors.BackendUnavailable("The message store cannot be reached.", retry_after=RETRY_SECONDS)
    if isinstance(exc, OperationalError):
        logger.error("The database cannot be used", exc_info=exc)
        return errors.BackendUnavailable("The database cannot be reached.", retry_after=RETRY_SECONDS)
    logger.error("Unexpected failure", exc_info=exc)
    return errors.InternalError()


def _from_rest_framework(exc: drf.APIException) -> errors.ApiError:
    if isinstance(exc, drf.ValidationError):
        return _from_validation(exc)
    if isinstance(exc, drf.MethodNotAllowed):
        return errors.MethodNotAllowed()
    if isinstance(exc, drf.UnsupportedMediaType):
        return errors.UnsupportedMediaType()
    for kind, ours in _SAME_MEANING:
        if isinstance(exc, kind):
            return ours()
    logger.error("Unexpected failure", exc_info=exc)
    return errors.InternalError()


_SAME_MEANING: tuple[tuple[type[drf.APIException], type[errors.ApiError]], ...] = (
    (drf.ParseError, errors.InvalidInput),
    (drf.AuthenticationFailed, errors.AuthenticationFailed),
    (drf.NotAuthenticated, errors.AuthenticationFailed),
    (drf.PermissionDenied, errors.PermissionDenied),
    (drf.NotFound, errors.NotFound),
)


def _from_validation(exc: drf.ValidationError) -> errors.InvalidInput:
    """The first message and its field; all of them, by field, in `details.errors`."""
    problems = list(_flatten(exc.detail, ""))
    field, message = problems[0] if problems else ("", "The request is not valid.")
    by_field: dict[str, list[str]] = {}
    for name, text in problems:
        by_field.setdefault(name or "non_field_errors", []).append(text)
    return errors.InvalidInput(message, field=field or None, details={"errors": by_field})


def _flatten(detail: Any, path: str) -> Iterable[tuple[str, str]]:
    if isinstance(detail, dict):
        for name, item in detail.items():
            yield from _flatten(item, path if name == "non_field_errors" else _joined(path, name))
    elif isinstance(detail, list):
        for index, item in enumerate(detail):
            yield from _flatten(item, path if isinstance(item, str) else f"{path}[{index}]")
    else:
        yield path, str(detail)


def _joined(path: str, name: object) -> str:
    if isinstance(name, int):
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else str(name)
