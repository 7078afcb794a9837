import pytest
import redis.exceptions
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import OperationalError
from django.http import Http404
from rest_framework import exceptions as drf
from rest_framework import serializers

from common import errors
from common.exception_handler import to_api_error
from common.serializers import StrictSerializer


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (errors.ModelNotFound(), "MODEL_NOT_FOUND"),
        (Http404(), "NOT_FOUND"),
        (PermissionDenied(), "PERMISSION_DENIED"),
        (RequestDataTooBig(), "PAYLOAD_TOO_LARGE"),
        (SuspiciousOperation(), "INVALID_INPUT"),
        (drf.ParseError(), "INVALID_INPUT"),
        (drf.NotAuthenticated(), "AUTHENTICATION_FAILED"),
        (drf.MethodNotAllowed("PUT"), "METHOD_NOT_ALLOWED"),
        (drf.UnsupportedMediaType("x/y"), "UNSUPPORTED_MEDIA_TYPE"),
        (drf.APIException(), "INTERNAL_ERROR"),
        (redis.exceptions.ConnectionError(), "BACKEND_UNAVAILABLE"),
        (redis.exceptions.TimeoutError(), "BACKEND_UNAVAILABLE"),
        (OperationalError(), "BACKEND_UNAVAILABLE"),
        (ValueError("inner"), "INTERNAL_ERROR"),
    ],
)
def test_every_failure_has_its_code(raised: Exception, code: str) -> None:
    assert to_api_error(raised).code == code


class Inner(StrictSerializer):
    size = serializers.IntegerField(min_value=1)


class Outer(StrictSerializer):
    name = serializers.CharField()
    items = Inner(many=True)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"items": []}, "name"),
        ({"name": "x", "items": "y"}, "items"),
        ({"name": "x", "items": [{"size": 1}, {"size": 0}]}, "items[1].size"),
        ({"name": "x", "items": [{"size": 1}], "more": 1}, "more"),
        ({"name": "\0", "items": []}, "name"),
        (["no", "object"], None),
    ],
)
def test_the_first_bad_field_is_named(body: object, field: str | None) -> None:
    with pytest.raises((drf.ValidationError, errors.InvalidInput)) as refusal:
        Outer.parse(body)
    assert to_api_error(refusal.value).details.get("field") == field


def test_an_error_that_came_over_the_wire_is_made_again() -> None:
    error = errors.from_code("INVALID_INPUT", "too long", {"field": "text"})
    assert (error.status, error.message, error.details) == (400, "too long", {"field": "text"})
    assert isinstance(errors.from_code("SOMETHING_ELSE", "inner words"), errors.InternalError)
    assert errors.from_code("SOMETHING_ELSE", "inner words").message != "inner words"
