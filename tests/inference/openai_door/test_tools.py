"""Tools through OpenAI's Python package: a made-up template, calls that must be made, and those that the echo makes."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.random_models import random_model
from tests.running_server import RunningServer

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# It says what it was given, so that the length of the prompt tells whether the tools have come through.
TEMPLATE = """{% if tools %}Tools: {{ tools | tojson }}
{% endif %}{% for message in messages %}{{ message.role }}: {{ message.content }}{% for call in message.tool_calls %}
calls {{ call.function.name }} with {{ call.function.arguments | tojson }}{% endfor %}
{% endfor %}assistant: """
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"$ref": "#/$defs/place"},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["place", "unit"],
            "additionalProperties": False,
            "$defs": {"place": {"enum": ["Köln", "Paris"]}},
        },
    },
}
TIME: Any = {"type": "function", "function": {"name": "get_time"}}
ASKED: Any = [{"role": "user", "content": "How is the weather in Paris?"}]


@pytest.fixture(scope="module")
def model(server: RunningServer) -> Iterator[str]:
    """A model with random weights whose template knows tools."""
    folder = random_model(server.models_root / "with-tools", **SHAPE)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with httpx.Client(base_url=f"{server.url}/api/v1", headers=server.headers, timeout=120) as api:
        made = api.post("/models", json={"source": str(folder), "id": "with-tools"})
        assert made.status_code == 201, made.text
        yield "with-tools"
        assert api.delete("/models/with-tools?force=true").status_code == 200


def test_a_call_that_must_be_made_keeps_to_its_schema(demo_client: openai.OpenAI, model: str) -> None:
    answer = demo_client.chat.completions.create(
        model=model, messages=ASKED, tools=[WEATHER, TIME], tool_choice="required", temperature=1.5, seed=4
    )

    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.id.startswith("call_")
    assert call.function.name in ("get_weather", "get_time")
    json.loads(call.function.arguments)
    turns: Any = [*ASKED, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "Rain."}]
    answer = demo_client.chat.completions.create(model=model, messages=turns, tools=[WEATHER], max_tokens=5)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_a_named_function_is_called_in_a_stream_and_its_result_sent_back(
    demo_client: openai.OpenAI, model: str
) -> None:
    choice: Any = {"type": "function", "function": {"name": "get_weather"}}
    with demo_client.chat.completions.stream(
        model=model, messages=ASKED, tools=[WEATHER, TIME], tool_choice=choice, temperature=1, seed=1
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()

    message = final.choices[0].message
    (call,) = message.tool_calls or []
    arguments = json.loads(call.function.arguments)
    assert "tool_calls.function.arguments.done" in kinds
    assert arguments["place"] in ("Köln", "Paris")
    assert arguments["unit"] in ("celsius", "fahrenheit")
    assert final.choices[0].finish_reason == "tool_calls"
    made = {
        "id": call.id,
        "type": "function",
        "function": {"name": "get_weather", "arguments": call.function.arguments},
    }
    turns: Any = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": call.id, "content": "Rain."},
    ]
    answer = demo_client.chat.completions.create(model=model, messages=turns, tools=[WEATHER], max_tokens=5)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_the_template_gets_the_tools_unless_none_may_be_called(demo_client: openai.OpenAI, model: str) -> None:
    lengths = []
    for choice in ("auto", "none"):
        answer = demo_client.chat.completions.create(
            model=model,
            messages=ASKED,
            tools=[WEATHER],
            tool_choice=choice,  # type: ignore[arg-type]
            max_tokens=1,
        )
        assert answer.usage is not None
        lengths.append(answer.usage.prompt_tokens)

    assert lengths[0] - lengths[1] > len(json.dumps(WEATHER)) / 2


def test_a_model_whose_template_has_no_tools_says_so(demo_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        demo_client.chat.completions.create(model="default", messages=ASKED, tools=[WEATHER])
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported_parameter")
    assert "chat template has no tools" in caught.value.message

    calls: Any = [
        {
            "role": "assistant",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "x"},
    ]
    with pytest.raises(openai.BadRequestError) as caught:
        demo_client.chat.completions.create(model="default", messages=[*ASKED, *calls])
    assert caught.value.param == "messages"


def test_parameters_that_cannot_be_enforced_are_a_400(demo_client: openai.OpenAI, model: str) -> None:
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        demo_client.chat.completions.create(model=model, messages=ASKED, tools=[tool], tool_choice="required")

    assert caught.value.param == "tools"


SAID = '{"name": "get_weather", "arguments": {"place": "Paris", "unit": "celsius"}}'


@pytest.mark.parametrize("said", [f"<tool_call>\n{SAID}\n</tool_call>", SAID.replace("arguments", "parameters")])
def test_a_call_that_the_model_makes_by_itself_is_found(client: openai.OpenAI, said: str) -> None:
    """The echo says what it was told to."""
    asked: Any = {
        "model": "echo",
        "messages": [{"role": "user", "content": said}],
        "tools": [WEATHER],
        "parallel_tool_calls": False,
        "max_tokens": 50,
    }
    (choice,) = client.chat.completions.create(**asked).choices
    names, arguments, ids, reason = [], "", [], None
    for chunk in client.chat.completions.create(**asked, stream=True):
        for made in chunk.choices[0].delta.tool_calls or ():
            assert made.index == 0
            assert made.function is not None
            names += [made.function.name] if made.function.name else []
            ids += [made.id] if made.id else []
            arguments += made.function.arguments or ""
        reason = chunk.choices[0].finish_reason
        assert not chunk.choices[0].delta.content

    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == json.loads(arguments) == {"place": "Paris", "unit": "celsius"}
    assert names == [call.function.name] == ["get_weather"]
    assert len(ids) == 1
    assert (choice.message.content, choice.finish_reason, reason) == (None, "tool_calls", "tool_calls")


def test_an_answer_without_a_call_is_text(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=ASKED, tools=[WEATHER], max_tokens=6)

    (choice,) = answer.choices
    assert choice.message.content == "How is the weather in"[: len(choice.message.content or "")]
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "length"
