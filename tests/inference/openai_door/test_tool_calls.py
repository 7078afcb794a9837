"""Calls of tools in what models say, however it is cut into pieces."""

import json
from typing import Any

import pytest

from inference.openai_door.tool_calls import ToolCall, ToolCallReader

NAMES = frozenset({"weather", "time"})
RAIN = '{"name": "weather", "arguments": {"city": "Köln", "days": [1, {"a": "}"}]}}'
CALL = ("weather", {"city": "Köln", "days": [1, {"a": "}"}]})


def read(text: str, size: int, *, single: bool = False) -> tuple[str, list[tuple[str, Any]]]:
    """The content and the calls of a text that comes in pieces of that size."""
    reader = ToolCallReader(NAMES, single=single)
    pieces = [piece for at in range(0, len(text), size) for piece in reader.feed(text[at : at + size])]
    pieces += reader.finish()
    calls = [(piece.name, json.loads(piece.arguments)) for piece in pieces if isinstance(piece, ToolCall)]
    assert reader.has_called == bool(calls)
    return "".join(piece for piece in pieces if isinstance(piece, str)), calls


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (f"<tool_call>\n{RAIN}\n</tool_call>", "", [CALL]),
        (f"Let me look.\n\n<tool_call>{RAIN}</tool_call>", "Let me look.", [CALL]),
        (f"<tool_call>{RAIN}</tool_call>\n<tool_call>{RAIN}</tool_call>\n", "", [CALL, CALL]),
        (f"<tool_call>\n{RAIN}", "", [CALL]),  # its end was no text
        (f"<tool_call>{RAIN}</tool_call> Wait.", " Wait.", [CALL]),
        (RAIN, "", [CALL]),
        (f"  {RAIN}\n", "", [CALL]),
        (f"{RAIN}; {RAIN}", "", [CALL, CALL]),
        (RAIN.replace("arguments", "parameters"), "", [CALL]),
        ('{"type": "function", "name": "time", "parameters": {}}', "", [("time", {})]),
        ('{"name": "time", "arguments": "{\\"zone\\": 1}"}', "", [("time", {"zone": 1})]),
    ],
)
def test_calls_are_found_in_both_forms(text: str, content: str, calls: list[Any], size: int) -> None:
    assert read(text, size) == (content, calls)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "It rains in Köln.\n",
        "a < b, and <tool is no tag",
        '{"name": "Ada", "age": 36}',
        '{"name": "weather"}',
        '{"city": "Köln", "name": "weather", "arguments": {}}',
        '{"name": "weather", "arguments": {"city": "Kö',
        "<tool_call>not json</tool_call>",
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "weather", "arg',
        'Say {"name": "weather", "arguments": {}} to call it.',
        "",
        "{",
        "  ",
    ],
)
def test_what_is_no_call_is_text_as_it_came(text: str, size: int) -> None:
    assert read(text, size) == (text, [])


def test_text_goes_out_as_it_comes() -> None:
    reader = ToolCallReader(NAMES, single=False)

    assert reader.feed("Hello") == ["Hello"]
    assert reader.feed(" world <too") == [" world"]
    assert reader.feed("ls>") == [" <tools>"]
    assert ToolCallReader(NAMES, single=False).feed('{"age": 3') == ['{"age": 3']


def test_one_call_is_all_where_one_is_asked_for() -> None:
    assert read(f"<tool_call>{RAIN}</tool_call> and <tool_call>{RAIN}</tool_call>", 5, single=True) == ("", [CALL])
    assert read(f"{RAIN}\n{RAIN}", 5, single=True) == ("", [CALL])


def test_every_call_has_an_id_of_its_own() -> None:
    first, second = ToolCallReader(NAMES, single=False).feed(f"{RAIN}{RAIN}")

    assert isinstance(first, ToolCall)
    assert isinstance(second, ToolCall)
    assert first.id != second.id
