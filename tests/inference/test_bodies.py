"""What the bodies of the inference endpoints take, and how they name what they don't."""

from typing import Any

import pytest

from common.errors import InvalidInput
from inference.bodies import Prompt, parse_batch, parse_infer


def refusal(body: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        parse_infer(body)
    return caught.value


def batch_refusal(body: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        parse_batch(body)
    return caught.value


def test_it_fills_in_the_documented_defaults() -> None:
    request = parse_infer({"text": "hello"})

    assert request.model == "default"
    assert request.stream is None
    assert (request.prompt.params.max_tokens, request.prompt.params.temperature, request.prompt.params.top_p) == (
        100,
        1.0,
        1.0,
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", "5"),
        ("max_tokens", True),
        ("max_tokens", 5.0),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", None),
        ("max_tokens", 2**31),
        ("temperature", "0.7"),
        ("temperature", 0.05),
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("top_k", -1),
        ("min_p", 1.5),
        ("repetition_penalty", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("stop", "END"),
        ("stop", [""]),
        ("stop", ["x"] * 17),
        ("stream", "true"),
        ("stream", 1),
        ("raw", "no"),
        ("system", 3),
        ("model", 7),
        ("text", 42),
        ("text", ""),
        ("text", ["a"]),
        ("timeout", 0),
        ("timeout", -3),
        ("timeout", 10**9),
        ("timeout", float("nan")),
        ("async", "yes"),
        ("nonsense", 1),
    ],
)
def test_it_names_the_field_that_is_wrong(field: str, value: Any) -> None:
    assert refusal({"text": "hello", field: value}).details["field"] == field


def test_it_rejects_a_missing_text() -> None:
    assert refusal({"max_tokens": 3}).details["field"] == "text"


def test_it_rejects_a_body_that_is_no_object() -> None:
    refusal([])


def test_it_rejects_a_text_over_the_limit_with_both_lengths(settings: Any) -> None:
    settings.MAX_TEXT_LENGTH = 10

    assert refusal({"text": "x" * 11}).details == {"max_length": 10, "provided_length": 11, "field": "text"}
    assert parse_infer({"text": "x" * 10}).prompt.text == "x" * 10


def test_it_counts_the_system_prompt_and_all_turns_against_the_limit(settings: Any) -> None:
    settings.MAX_TEXT_LENGTH = 10

    assert refusal({"text": "x" * 6, "system": "y" * 5}).details["field"] == "system"
    turns = [{"role": "user", "content": "x" * 6}, {"role": "assistant", "content": "y" * 5}]
    assert refusal({"messages": turns}).details["field"] == "messages"


def test_it_takes_chat_turns_instead_of_text() -> None:
    turns = [{"role": "user", "content": "hi"}]

    prompt = parse_infer({"messages": turns, "system": "be brief"}).prompt

    assert prompt.messages is not None
    assert prompt.messages[0].content == "hi"
    assert refusal({"messages": turns, "text": "hi"}).details["field"] == "messages"
    assert refusal({"messages": []}).details["field"] == "messages"
    assert refusal({"messages": turns, "raw": True}).details["field"] == "raw"
    assert refusal({"messages": [{"role": "user", "content": 3}]}).details["field"] == "messages[0].content"
    assert refusal({"messages": [{"role": "robot", "content": ""}]}).details["field"] == "messages[0].role"
    assert refusal({"messages": [{"role": "user"}]}).details["field"] == "messages[0].content"
    assert refusal({"messages": [*turns, {"role": "user", "content": "", "x": 1}]}).details["field"] == "messages[1].x"


def test_a_batch_item_goes_before_the_batch() -> None:
    request = parse_batch(
        {"inputs": [{"text": "a", "max_tokens": 3}, {"id": "b", "text": "b"}], "max_tokens": 9, "temperature": 0}
    )

    (first_id, first), (second_id, second) = request.items
    assert isinstance(first, Prompt)
    assert isinstance(second, Prompt)
    assert (first_id, first.params.max_tokens, first.params.temperature) == ("0", 3, 0)
    assert (second_id, second.params.max_tokens) == ("b", 9)


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"max_tokens": 3}, "inputs[1].text"),
        ({"text": "x", "max_tokens": "3"}, "inputs[1].max_tokens"),
        ({"text": "x", "temperature": 0.01}, "inputs[1].temperature"),
        ({"text": "x", "surprise": 1}, "inputs[1].surprise"),
        ({"text": 5}, "inputs[1].text"),
        ({"messages": [{"role": "user", "content": 5}]}, "inputs[1].messages[0].content"),
    ],
)
def test_a_bad_batch_item_fails_alone_and_by_path(item: dict[str, Any], field: str) -> None:
    items = parse_batch({"inputs": [{"text": "good"}, item]}).items

    assert isinstance(items[0][1], Prompt)
    assert isinstance(items[1][1], InvalidInput)
    assert items[1][1].details["field"] == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": "text"}, "inputs"),
        ({"inputs": ["text"]}, "inputs[0]"),
        ({"inputs": [{"text": "a", "id": 3}]}, "inputs[0].id"),
        ({"inputs": [{"text": "a", "id": ""}]}, "inputs[0].id"),
        ({"inputs": [{"text": "a", "id": "x"}, {"text": "b", "id": "x"}]}, "inputs[1].id"),
        ({"inputs": [{"text": "a", "id": "1"}, {"text": "b"}]}, "inputs[1].id"),
        ({"inputs": [{"text": "a"}], "temperature": 3}, "temperature"),
        ({"inputs": [{"text": "a"}], "stream": True}, "stream"),
        ({"inputs": [{"text": "a"}], "async": "yes"}, "async"),
    ],
)
def test_a_fault_of_the_whole_batch_is_named(body: dict[str, Any], field: str) -> None:
    assert batch_refusal(body).details["field"] == field


def test_a_batch_over_the_limit_is_refused(settings: Any) -> None:
    settings.MAX_BATCH_ITEMS = 2

    error = batch_refusal({"inputs": [{"text": "a"}] * 3})

    assert error.details == {"max_items": 2, "provided_items": 3, "field": "inputs"}
