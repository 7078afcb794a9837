"""Mending JSON as models write it: what is wrong is put right, everything else stays as it stands."""

import json
import re

_SPACE = re.compile(r"(?:\s+|//[^\n]*|/\*.*?(?:\*/|\Z)|#[^\n]*)*", re.DOTALL)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?(?:\*/|\Z)|#[^\n]*", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d*)?")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NAME = re.compile(r"[^\W\d][\w$-]*|\$[\w$-]*")
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_CUT_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_FENCE = re.compile(r"\A\s*```(?:json|JSON)?[ \t]*\n?")
_FENCE_END = re.compile(r"\s*```\s*\Z")

_LITERALS = {
    "true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null",
    "undefined": "null", "NaN": "null", "Infinity": "null",
}  # fmt: skip
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u201d": "\u201d"}
_BEGINS_VALUE = frozenset("{[]\"'-+.0123456789/\u201c")
_MAX_DEPTH = 100


class NotJson(Exception):
    """The text is no JSON, or too far from it."""


def repaired(text: str) -> str:
    """Valid JSON for a text that is nearly so; the text itself if it is valid already, or can't be mended."""
    bare = _FENCE_END.sub("", _FENCE.sub("", text, count=1), count=1) if _FENCE.match(text) else text
    if _is_valid(bare):
        return bare
    try:
        result = _Mender(bare).mended()
    except NotJson:
        return text
    return result if _is_valid(result) else text


def may_be_json(text: str) -> bool | None:
    """Whether a text that is still being written begins as JSON does; None while that can't be told."""
    start = text.lstrip()
    if start.startswith("`"):
        fence = start[:7].lower()
        return True if fence == "```json" else None if "```json".startswith(fence) else _may_be_fenced(start)
    if start[:1] not in ("{", "["):
        return None if not start else False
    inner = start[1:].lstrip()
    if not inner:
        return None
    if start[0] == "[":
        word = _NAME.match(inner)
        if word is not None:
            return any(literal.startswith(word.group()) for literal in _LITERALS)
        return inner[0] in _BEGINS_VALUE
    return inner[0] in "\"'\u201c}/_$" or inner[0].isalpha()


def _may_be_fenced(start: str) -> bool | None:
    """After a fence without a language."""
    if not start.startswith("```"):
        return False
    inner = start[3:].lstrip()
    return None if not inner else inner[0] in "{["


def _is_valid(text: str) -> bool:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list)


class _Mender:
    """Reads a text from left to right, and writes what it should have been."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._out: list[str] = []

    def mended(self) -> str:
        self._space()
        if self._peek() not in ("{", "["):
            raise NotJson
        self._value(0)
        self._space()
        if self._at < len(self._text):
            raise NotJson
        return "".join(self._out)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _space(self) -> None:
        """Copy white space, without comments."""
        space = _SPACE.match(self._text, self._at)
        if space is not None and space.end() > self._at:
            self._out.append(_COMMENT.sub("", space.group()))
            self._at = space.end()

    def _value(self, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise NotJson
        first = self._peek()
        if first == "{":
            self._members(depth, "}", is_object=True)
        elif first == "[":
            self._members(depth, "]", is_object=False)
        elif first in _QUOTES and first:
            self._string()
        elif number := _NUMBER.match(self._text, self._at):
            self._number(number)
        else:
            self._literal()

    def _members(self, depth: int, end: str, *, is_object: bool) -> None:
        """An object or a list, from its bracket on. A comma is written when something follows it."""
        self._out.append(self._peek())
        self._at += 1
        is_first = True
        while True:
            self._space()
            commas = 0
            while self._peek() == ",":
                commas += 1
                self._at += 1
                self._space()
            if self._peek() in ("", end):
                break
            if is_first and commas:
                raise NotJson
            if not is_first:
                self._put_comma()
            if is_object:
                self._key()
            if is_object and self._peek() in ("", ",", end):
                self._out.append("null")  # a key whose value is missing
            else:
                self._value(depth + 1)
            is_first = False
        self._out.append(end)
        self._at += 1

    def _put_comma(self) -> None:
        """Before the white space that stands behind the last value."""
        place = len(self._out)
        while place and not self._out[place - 1].strip():
            place -= 1
        self._out.insert(place, ",")

    def _key(self) -> None:
        if self._peek() in _QUOTES:
            self._string()
        elif name := _NAME.match(self._text, self._at):
            self._out.append(json.dumps(name.group(), ensure_ascii=False))
            self._at = name.end()
        else:
            raise NotJson
        self._space()
        if self._peek() == ":":
            self._at += 1
        elif self._peek() != "":
            raise NotJson
        self._out.append(":")
        self._space()

    def _number(self, number: re.Match[str]) -> None:
        text = number.group().lstrip("+")
        self._at = number.end()
        if self._peek().isalnum() or self._peek() == "_":
            raise NotJson
        if text.startswith((".", "-.")):
            text = text.replace(".", "0.", 1)
        text = re.sub(r"[eE][+-]?\Z", "", text)
        text = re.sub(r"\.(?=[eE]|\Z)", "", text)
        if not _JSON_NUMBER.fullmatch(text):
            raise NotJson
        self._out.append(text)

    def _literal(self) -> None:
        name = _NAME.match(self._text, self._at)
        if name is None:
            raise NotJson
        word = name.group()
        at_end = name.end() == len(self._text)
        meant = _LITERALS.get(word) or next(
            (value for literal, value in _LITERALS.items() if at_end and literal.startswith(word)), None
        )
        if meant is None:
            raise NotJson
        self._out.append(meant)
        self._at = name.end()

    def _string(self) -> None:
        closing = _QUOTES[self._peek()]
        self._at += 1
        self._out.append('"')
        while True:
            character = self._peek()
            if character == "":
                break
            if character == closing and self._closes(closing):
                self._at += 1
                break
            self._out.append(self._escaped(character))
        self._out.append('"')

    def _closes(self, quote: str) -> bool:
        """Whether a quote ends its string: what follows is what may follow a string."""
        rest = self._text[self._at + 1 : self._at + 200]
        after = rest.lstrip()
        if after[:1] in ("", ",", ":", "]", "}", "/", "#"):
            return True
        return "\n" in rest[: len(rest) - len(after)] and after[0] in _QUOTES

    def _escaped(self, character: str) -> str:
        """The next character of a string as JSON wants it."""
        if character == "\\":
            if escape := _ESCAPE.match(self._text, self._at):
                self._at = escape.end()
                return escape.group()
            following = self._text[self._at + 1 : self._at + 2]
            if following in ("'", "\n"):
                self._at += 2
                return "'" if following == "'" else "\\n"
            if _CUT_ESCAPE.match(self._text, self._at):
                self._at = len(self._text)
                return ""
            self._at += 1
            return "\\\\"
        self._at += 1
        if character == '"':
            return '\\"'
        return json.dumps(character, ensure_ascii=False)[1:-1] if character < " " else character
