"""Finds the calls of tools in what a model says, as it says it.

Two forms are known: `<tool_call>{…}</tool_call>` anywhere (Qwen, Hermes, SmolLM and others), and an answer that is
nothing but JSON objects (Llama 3). In either, `{"name": …, "arguments": {…}}`; Llama's key is `parameters`. What looks
like a call of no offered function is text.
"""

import json
import secrets
from dataclasses import dataclass, field
from typing import Any

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_KEYS = {"name", "arguments", "parameters", "type", "id"}
_BETWEEN = " \t\r\n;,"
_decoder = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments`: a JSON object, as text."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")


Piece = str | ToolCall


class ToolCallReader:
    """Takes one answer's text; gives its content and its calls, each call once it is whole."""

    def __init__(self, names: frozenset[str], *, single: bool) -> None:
        """`names`: of the offered functions. `single`: what follows the first call is left out."""
        self._names = names
        self._single = single
        self._held = ""
        self._is_text = False  # since something that is no call has come before
        self._calls = 0

    @property
    def has_called(self) -> bool:
        return self._calls > 0

    def feed(self, text: str) -> list[Piece]:
        """What is certain now."""
        self._held += text
        return self._read(is_last=False)

    def finish(self) -> list[Piece]:
        """The rest."""
        return self._read(is_last=True)

    def _read(self, *, is_last: bool) -> list[Piece]:
        pieces: list[Piece] = []
        before: tuple[int, bool] | None = None
        while self._held and (len(self._held), self._is_text) != before and not (self._single and self._calls):
            before = len(self._held), self._is_text
            taken = self._object(is_last) if self._may_be_object() else self._text_or_tag(is_last)
            pieces += [piece for piece in taken if piece]
        return pieces

    def _may_be_object(self) -> bool:
        text = self._held.lstrip(_BETWEEN if self._calls else None)
        return not self._is_text and (not text or text[0] == "{")

    def _object(self, is_last: bool) -> list[Piece]:
        """A call that is a JSON object of its own, or nothing as long as it may become one."""
        text = self._held.lstrip(_BETWEEN if self._calls else None)
        try:
            said, end = _decoder.raw_decode(text) if "}" in text else (None, 0)
        except ValueError:
            said, end = None, 0
        if call := self._call(said):
            self._held = text[end:]
            return [call]
        if not is_last and said is None and _may_become_call(text):
            return []
        if is_last and self._calls and not text:
            self._held = ""  # what has come between calls
            return []
        self._is_text = True
        return []

    def _text_or_tag(self, is_last: bool) -> list[Piece]:
        at = self._held.find(_OPEN)
        if at < 0:
            return [self._text(len(self._held) if is_last else self._certain())]
        before = self._held[:at]
        end = self._held.find(_CLOSE, at)
        if end < 0 and not is_last:
            return [self._text(len(before.rstrip()))]
        body = self._held[at + len(_OPEN) : end if end >= 0 else None]
        rest = self._held[end + len(_CLOSE) :] if end >= 0 else ""
        if call := self._call(_decoded(body)):
            self._held = rest
            return [before.rstrip(), call]
        said = self._held[: len(self._held) - len(rest)]
        self._held = rest
        return [said]

    def _text(self, length: int) -> str:
        said, self._held = self._held[:length], self._held[length:]
        if self._calls and not said.strip():
            return ""
        self._is_text = self._is_text or bool(said.strip())
        return said

    def _certain(self) -> int:
        """How much of the held text is no beginning of a tag, and no white space before one."""
        text = self._held
        for length in range(min(len(_OPEN) - 1, len(text)), 0, -1):
            if _OPEN.startswith(text[-length:]):
                text = text[:-length]
                break
        return len(text.rstrip())

    def _call(self, said: Any) -> ToolCall | None:
        if not isinstance(said, dict) or said.get("name") not in self._names or not said.keys() <= _KEYS:
            return None
        arguments = said.get("arguments", said.get("parameters"))
        if isinstance(arguments, str):
            arguments = _decoded(arguments)
        if not isinstance(arguments, dict):
            return None
        self._calls += 1
        return ToolCall(said["name"], json.dumps(arguments, ensure_ascii=False))


def _may_become_call(text: str) -> bool:
    """Whether the first key, as far as it has come, is one of a call's."""
    key = text[1:].lstrip()
    return not key or any(f'"{known}"'.startswith(key[: len(known) + 2]) for known in _KEYS)


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
