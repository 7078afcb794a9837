"""A JSON parser that refuses what other parsers let through in silence."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import msgspec
from django.conf import settings
from django.http import UnreadablePostError
from rest_framework.parsers import BaseParser

from common.errors import InvalidInput, PayloadTooLarge, UnsupportedMediaType

MAX_DEPTH = 32
MAX_INTEGER = 2**63 - 1
MAX_NUMBER_LENGTH = 400
# Reading a value with all the checks takes a microsecond of the event loop, on which everybody else waits.
MAX_VALUES = 20_000
LARGE_BODY_BYTES = 64 * 1024
_UTF_8 = {"utf-8", "utf8"}


class StrictJSONParser(BaseParser):
    """Takes one JSON object.

    Refused, with the field's name where there is one: duplicate keys, NaN and Infinity, numbers beyond 64 bits or a
    double's range, nesting deeper than MAX_DEPTH, NUL characters and lone surrogates; also more than MAX_VALUES values.
    """

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        if _charset(media_type) not in _UTF_8:
            raise UnsupportedMediaType
        return parse_object(_read(stream))


def parse_object(body: bytes) -> dict[str, Any]:
    """The object that `body` holds; raises InvalidInput."""
    if len(body) > LARGE_BODY_BYTES:
        _refuse_a_crowd(body)
    try:
        value = json.loads(
            body.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_Refused,
        )
    except UnicodeDecodeError:
        raise InvalidInput("The body is not valid UTF-8.") from None
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"The body is not valid JSON: {error.msg}.", details={"line": error.lineno, "column": error.colno}
        ) from None
    except RecursionError:
        raise InvalidInput(_TOO_DEEP) from None
    if not isinstance(value, dict):
        raise InvalidInput("The body must be a JSON object.")
    _check(value, "", 1)
    return value


@dataclass(frozen=True, slots=True)
class _Refused:
    """Stands for a number that cannot be taken until its field is known."""

    text: str


_TOO_DEEP = f"The body is nested deeper than {MAX_DEPTH} levels."


def _charset(media_type: str | None) -> str:
    _, _, charset = (media_type or "").lower().partition("charset=")
    return charset.partition(";")[0].strip(' "') or "utf-8"


def _read(stream: IO[Any]) -> bytes:
    try:
        body: bytes = stream.read(settings.MAX_BODY_BYTES + 1)
    except UnreadablePostError:
        raise InvalidInput("The body could not be read to its end.") from None
    if len(body) > settings.MAX_BODY_BYTES:
        raise PayloadTooLarge(details={"max_bytes": settings.MAX_BODY_BYTES})
    return body


def _refuse_a_crowd(body: bytes) -> None:
    """Look at a large body with a fast parser first; it tells less, but takes no second for millions of values."""
    try:
        layer = [msgspec.json.decode(body)]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        if body.count(b",") > MAX_VALUES:
            raise InvalidInput("The body is not valid JSON.") from None
        return  # few enough values: the strict parser finds the fault and can name its field
    count = 0
    while layer:
        value = layer.pop()
        if isinstance(value, dict | list):
            count += len(value)
            if count > MAX_VALUES:
                raise InvalidInput(f"The body holds more than {MAX_VALUES} values.")
            layer.extend(value.values() if isinstance(value, dict) else value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InvalidInput("A key appears twice in one object.", field=_shown(twice))
    return result


def _integer(text: str) -> int | _Refused:
    if len(text) <= 20 and abs(value := int(text)) <= MAX_INTEGER:
        return value
    return _Refused(text)


def _float(text: str) -> float | _Refused:
    if len(text) <= MAX_NUMBER_LENGTH and math.isfinite(value := float(text)):
        return value
    return _Refused(text)


def _check(value: Any, field: str, depth: int) -> None:
    """Raise InvalidInput for the first value, in reading order, that must not pass."""
    if isinstance(value, str):
        _check_text(value, field)
    elif isinstance(value, _Refused):
        raise InvalidInput("The number is out of range.", field=field)
    elif isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise InvalidInput(_TOO_DEEP, field=field)
        if isinstance(value, dict):
            for name, item in value.items():
                _check_text(name, _shown(name))
                _check(item, f"{field}.{name}" if field else name, depth + 1)
        else:
            for index, item in enumerate(value):
                _check(item, f"{field}[{index}]", depth + 1)


def _check_text(text: str, field: str) -> None:
    if "\0" in text:
        raise InvalidInput("NUL characters are not allowed.", field=field)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidInput("Half of a surrogate pair is not a character.", field=field) from None


def _shown(name: str) -> str:
    """A key as it can be told back: short and printable."""
    return name.encode("ascii", "backslashreplace").decode()[:100].replace("\0", "\\0")
