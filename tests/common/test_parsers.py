import json
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from common.errors import InvalidInput, PayloadTooLarge, UnsupportedMediaType
from common.parsers import MAX_DEPTH, MAX_VALUES, StrictJSONParser, parse_object

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"a": NaN}', "a"),
        (b'{"long": "' + b"x" * 100_000 + b'", "a": NaN}', "a"),
        (b'{"a": Infinity}', "a"),
        (b'{"a": [1, -Infinity]}', "a[1]"),
        (b'{"a": {"b": 1e999}}', "a.b"),
        (b'{"a": 9223372036854775808}', "a"),
        (b'{"a": -9223372036854775808}', "a"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "a"),
        (b'{"a": 0.' + b"9" * 10_000 + b"}", "a"),
        (b'{"a": "\\u0000"}', "a"),
        (b'{"a": ["x", "\\ud800"]}', "a[1]"),
        (b'{"a\\u0000": 1}', "a\\0"),
        (b'{"\\udfff": 1}', "\\udfff"),
        (b'{"a": 1, "b": 2, "a": 3}', "a"),
        (b'{"a": [{"b": 1, "b": 1}]}', "b"),
        (b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "a" + "[0]" * (MAX_DEPTH - 1)),
    ],
)
def test_it_names_the_field_that_it_refuses(body: bytes, field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_object(body)
    assert refusal.value.details["field"] == field


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nul",
        b"[]",
        b'"text"',
        b"5",
        b"null",
        b'{"a": 1} {"b": 2}',
        b'{"a": 01}',
        b"{'a': 1}",
        b'{"a": "\x01"}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        DEEP.encode(),
        ('{"a":' * 100_000).encode(),
    ],
)
def test_it_refuses_what_is_no_json_object(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_object(body)


@pytest.mark.parametrize("value", [b"0", b"{}", b'""', b"[0]", b'{"b": 0}'])
def test_it_refuses_a_crowd_of_values(value: bytes) -> None:
    with pytest.raises(InvalidInput, match=f"more than {MAX_VALUES} values"):
        parse_object(b'{"a": [' + b",".join([value] * 40_000) + b"]}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (b"0," * 100_000 + b"NaN", "not valid JSON"),
        (b"9" * 100_000, "out of range"),
        (b"[" * 100_000, "nested deeper"),
    ],
)
def test_a_large_body_that_is_no_json_is_refused_whatever_is_wrong_with_it(values: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_object(b'{"a": [' + values + b"]}")


def test_a_large_body_of_long_texts_passes() -> None:
    items = [{"id": str(number), "text": ",[{" * 1365} for number in range(128)]
    assert parse_object(json.dumps({"inputs": items}).encode()) == {"inputs": items}


def test_the_deepest_allowed_nesting_passes() -> None:
    body = b'{"a": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert list(parse_object(body)) == ["a"]


def test_an_over_long_body_is_refused(settings: Settings) -> None:
    settings.MAX_BODY_BYTES = 10
    with pytest.raises(PayloadTooLarge):
        StrictJSONParser().parse(BytesIO(b'{"a": "bcdefgh"}'), "application/json")


@pytest.mark.parametrize("media_type", ["application/json", "application/json; charset=UTF-8", None])
def test_it_takes_utf_8(media_type: str | None) -> None:
    assert StrictJSONParser().parse(BytesIO('{"a": "é😀"}'.encode()), media_type) == {"a": "é😀"}


def test_it_refuses_other_charsets() -> None:
    with pytest.raises(UnsupportedMediaType):
        StrictJSONParser().parse(BytesIO(b"{}"), "application/json; charset=latin-1")


_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_LEAVES = st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | _TEXT
_VALUES = st.recursive(
    _LEAVES.filter(lambda value: value not in (float("inf"), float("-inf"))),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(_TEXT, children, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(_TEXT, _VALUES, max_size=5))
def test_what_it_takes_comes_through_unchanged(value: dict[str, object]) -> None:
    assert parse_object(json.dumps(value).encode()) == value


@given(st.binary(max_size=200))
def test_no_bytes_make_it_crash(body: bytes) -> None:
    try:
        assert isinstance(parse_object(body), dict)
    except InvalidInput as refusal:
        json.dumps(refusal.details)
