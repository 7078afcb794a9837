"""What the bodies of /v1/ become, and how they name what this server doesn't have."""

import json
from typing import Any

import pytest

from common.errors import InvalidInput
from engine.messages import ChatTurn
from inference.openai_door.bodies import MAX_CHOICES, parse_chat, parse_completion

HELLO = [{"role": "user", "content": "hello"}]

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"$ref": "#/$defs/x", "$defs": {"x": {}}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": HELLO, **fields}


def refusal(parse: Any, body: dict[str, Any]) -> dict[str, Any]:
    with pytest.raises(InvalidInput) as caught:
        parse(body)
    return caught.value.details


def test_a_chat_without_limits_may_fill_the_context() -> None:
    (prompt,) = parse_chat(chat()).prompts

    assert prompt.fills_context
    assert prompt.messages == (ChatTurn("user", "hello"),)
    assert (prompt.params.temperature, prompt.params.top_p, prompt.params.seed) == (1.0, 1.0, None)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_holds_and_errors_call_it_as_the_caller_did(name: str) -> None:
    request = parse_chat(chat(**{name: 7}))

    assert request.prompts[0].params.max_tokens == 7
    assert not request.prompts[0].fills_context
    assert request.field_names["max_tokens"] == name


def test_developers_are_the_system_and_parts_of_text_are_joined() -> None:
    messages = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "annotations": []},
    ]
    (prompt,) = parse_chat(chat(messages=messages)).prompts

    assert prompt.messages == (ChatTurn("system", "be kind"), ChatTurn("user", "ab"), ChatTurn("assistant", "c"))


def test_every_choice_has_a_seed_of_its_own() -> None:
    seeds = [prompt.params.seed for prompt in parse_chat(chat(n=3, seed=2**63 - 2)).choices()]

    assert seeds == [2**63 - 2, 2**63 - 1, 0]
    assert [prompt.params.seed for prompt in parse_chat(chat(n=2)).choices()] == [None, None]


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        ({"type": "text"}, ""),
        ({"type": "json_object"}, '{"type":"object"}'),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"b": 1, "a": 2}, "strict": True}},
            '{"b":1,"a":2}',
        ),
    ],
)
def test_a_response_format_becomes_a_schema(wanted: dict[str, Any], schema: str) -> None:
    assert parse_chat(chat(response_format=wanted)).prompts[0].response_schema == schema


def test_the_sampling_is_taken_over() -> None:
    body = chat(temperature=0.02, top_p=0.5, stop="END", seed=-1, presence_penalty=1, frequency_penalty=-0.5, top_k=3)
    params = parse_chat(body).prompts[0].params

    assert (params.temperature, params.top_p, params.top_k, params.stop) == (0.02, 0.5, 3, ("END",))
    assert (params.presence_penalty, params.frequency_penalty) == (1, -0.5)
    assert params.seed == 2**63 - 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio", {}),
        ("function_call", "auto"),
        ("functions", [{"name": "f"}]),
        ("metadata", {"a": "b"}),
        ("modalities", ["text", "audio"]),
        ("moderation", {}),
        ("prediction", {"type": "content", "content": "x"}),
        ("reasoning_effort", "low"),
        ("service_tier", "flex"),
        ("store", True),
        ("verbosity", "low"),
        ("web_search_options", {}),
    ],
)
def test_what_chat_does_not_support_is_refused_by_name(field: str, value: Any) -> None:
    assert refusal(parse_chat, chat(**{field: value})) == {"reason": "unsupported_parameter", "field": field}


@pytest.mark.parametrize(("field", "value"), [("echo", True), ("suffix", "x"), ("best_of", 3), ("store", True)])
def test_what_completions_do_not_support_is_refused_by_name(field: str, value: Any) -> None:
    details = refusal(parse_completion, {"model": "m", "prompt": "x", field: value})

    assert details == {"reason": "unsupported_parameter", "field": field}


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "stream": False, "store": False, "logit_bias": {}, "metadata": None, "service_tier": "auto"},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "parallel_tool_calls": True},
        {"logprobs": False, "top_logprobs": None, "presence_penalty": 0, "stop": None, "max_tokens": None},
        {"user": "somebody", "safety_identifier": "x", "prompt_cache_key": "y", "modalities": ["text"]},
    ],
)
def test_values_that_ask_for_nothing_and_hints_pass(fields: dict[str, Any]) -> None:
    assert parse_chat(chat(**fields)) == parse_chat(chat())


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"surprise": 1}, "surprise"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": 0.001}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": MAX_CHOICES + 1}, "n"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"stop": [""]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "text", "json_schema": {}}}, "response_format.json_schema.name"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x", "name": "ada"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]}, "messages[0].tool_call_id"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "x"}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [TOOL], "logprobs": True}, "logprobs"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ],
)
def test_bad_values_are_refused_with_their_field(fields: dict[str, Any], field: str) -> None:
    assert refusal(parse_chat, chat(**fields))["field"] == field


def test_prompts_of_a_completion_are_raw_and_short_by_default() -> None:
    request = parse_completion({"prompt": ["a", "b"], "n": 2})

    assert [prompt.text for prompt in request.prompts] == ["a", "b"]
    assert all(prompt.raw and prompt.params.max_tokens == 16 for prompt in request.prompts)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": [1, -2]}, "prompt"),
        ({"prompt": [1.5]}, "prompt[0]"),
        ({"prompt": ["x"] * 17}, "prompt"),
    ],
)
def test_prompts_that_cannot_be_completed_are_refused(fields: dict[str, Any], field: str) -> None:
    assert refusal(parse_completion, fields)["field"] == field


def test_prompts_may_be_tokens() -> None:
    assert [prompt.tokens for prompt in parse_completion({"prompt": [1, 2]}).prompts] == [(1, 2)]
    assert [prompt.tokens for prompt in parse_completion({"prompt": [[1, 2], [3]]}).prompts] == [(1, 2), (3,)]


def test_biases_are_for_tokens_by_number() -> None:
    assert parse_chat(chat(logit_bias={"7": -100, "12": 2.5})).prompts[0].params.logit_bias == ((7, -100), (12, 2.5))


def test_tools_go_to_the_template_and_hold_the_answer_only_where_one_must_be_called() -> None:
    free = parse_chat(chat(tools=[TOOL], parallel_tool_calls=False))
    held = parse_chat(chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}))
    none = parse_chat(chat(tools=[TOOL], tool_choice="none", response_format={"type": "json_object"}))

    assert free.tooling is not None
    assert (free.tooling.names, free.tooling.single, free.prompts[0].response_schema) == ({"f"}, True, "")
    assert json.loads(free.prompts[0].tools)[0]["function"]["name"] == "f"
    schema = json.loads(held.prompts[0].response_schema)
    assert schema["anyOf"][0]["properties"] == {"name": {"const": "f"}, "arguments": {"$ref": "#/$defs/f0"}}
    assert schema["$defs"]["f0"]["$ref"] == "#/$defs/f0/$defs/x"
    assert (none.tooling, none.prompts[0].tools) == (None, "")
    assert none.prompts[0].response_schema == '{"type":"object"}'


def test_earlier_calls_and_their_results_go_to_the_template() -> None:
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "2", "tool_call_id": "call_1"},
    ]
    _, call, result = parse_chat(chat(messages=[*HELLO, *turns])).prompts[0].messages or ()

    assert (call.content, json.loads(call.tool_calls)[0]["function"]) == ("", {"name": "f", "arguments": {"a": 1}})
    assert (result.role, result.content, result.tool_call_id) == ("tool", "2", "call_1")
