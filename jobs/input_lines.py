"""From an uploaded file to its items: one of JSON Lines or of CSV at a time, however long the file is."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from django.conf import settings

from common.errors import InvalidInput
from common.parsers import parse_object
from inference.bodies import Parameters

_BOM = b"\xef\xbb\xbf"
_COLUMNS = {"id": str, "text": str, "system": str}
_NUMBERS = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
_PROMPT_COLUMN = "text"


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is to be an item, by its number from 1: an object, or why it is none."""

    number: int
    content: dict[str, Any] | InvalidInput


def json_lines(chunks: Iterable[bytes]) -> Iterator[Line]:
    """The lines of JSON Lines that are not empty."""
    for number, line in enumerate(_lines(chunks), start=1):
        if line.strip():
            yield Line(number, _parsed(line))


def csv_lines(chunks: Iterable[bytes]) -> Iterator[Line]:
    """The records of a CSV file whose first line names the columns: `text`, and any of `id`, `system` and parameters.

    Raises InvalidInput for a first line that names anything else.
    """
    rows = csv.reader((line.decode("utf-8", "surrogateescape") + "\n" for line in _lines(chunks)), strict=True)
    try:
        columns = [name.strip() for name in next(rows)]
    except (StopIteration, csv.Error):
        raise InvalidInput("The first line must name the columns.", field="file") from None
    unknown = [name for name in columns if name not in _COLUMNS and name not in _NUMBERS]
    if _PROMPT_COLUMN not in columns or unknown or len(set(columns)) < len(columns):
        details = {"columns": [*_COLUMNS, *_NUMBERS], "unknown": [name[:100] for name in unknown]}
        raise InvalidInput("The first line must name known columns, text among them.", field="file", details=details)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Line(rows.line_num, InvalidInput(f"The record is not valid CSV: {error}."))
            return  # where the next record begins is not known
        if row:
            yield Line(rows.line_num, _record(columns, row))


def _parsed(line: bytes) -> dict[str, Any] | InvalidInput:
    if len(line) > settings.MAX_BODY_BYTES:
        return InvalidInput("The line is too long.", details={"max_bytes": settings.MAX_BODY_BYTES})
    try:
        return parse_object(line)
    except InvalidInput as error:
        return InvalidInput(error.message.replace("The body", "The line"), details=error.details)


def _record(columns: list[str], row: list[str]) -> dict[str, Any] | InvalidInput:
    if len(row) != len(columns):
        return InvalidInput(f"The record has {len(row)} fields instead of {len(columns)}.")
    given = {name: value for name, value in zip(columns, row, strict=True) if value != ""}
    try:
        for value in given.values():
            value.encode()
        numbers = {name: value for name, value in given.items() if name in _NUMBERS}
        parameters = msgspec.convert(numbers, Parameters, strict=False)
    except UnicodeEncodeError:
        return InvalidInput("The record is not valid UTF-8.")
    except msgspec.ValidationError as error:
        return InvalidInput(f"{error}.".replace("`", ""))
    return {name: getattr(parameters, name) if name in numbers else value for name, value in given.items()}


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends. Of one that is far too long only the beginning is kept."""
    limit = settings.MAX_BODY_BYTES + 1
    held = b""
    is_first = True
    for chunk in chunks:
        *whole, rest = (held + chunk).split(b"\n")
        for line in whole:
            yield _cleaned(line, is_first)
            is_first = False
        held = rest[:limit]
    if held:
        yield _cleaned(held, is_first)


def _cleaned(line: bytes, is_first: bool) -> bytes:
    return (line.removeprefix(_BOM) if is_first else line).removesuffix(b"\r")
