"""OpenAI's Python package against a real chat model."""

import json

import httpx
import openai
import pydantic
import pytest

from tests.running_server import RunningServer

QUESTION = "What is the capital of France? Answer in one short sentence."


def test_it_says_what_the_api_of_our_own_says(demo_client: openai.OpenAI, server: RunningServer) -> None:
    body = {"text": QUESTION, "max_tokens": 24, "temperature": 0}
    ours = httpx.post(f"{server.url}/api/v1/infer", json=body, headers=server.headers, timeout=300).json()["result"]
    answer = demo_client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": QUESTION}], max_tokens=24, temperature=0
    )

    assert answer.choices[0].message.content == ours["generated_text"]
    assert "Paris" in ours["generated_text"]
    assert answer.model == "smollm2-135m-instruct"
    assert answer.choices[0].finish_reason == ours["finish_reason"]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == ours["prompt_tokens"]


def test_choices_of_one_seed_differ(demo_client: openai.OpenAI) -> None:
    answer = demo_client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": "Tell a story."}], max_tokens=12, n=3, seed=11
    )

    assert len({choice.message.content for choice in answer.choices}) == 3


class Person(pydantic.BaseModel):
    name: str
    age: int
    is_alive: bool


def test_a_small_model_keeps_to_a_schema(demo_client: openai.OpenAI) -> None:
    question = "Tell me about Ada Lovelace."
    answer = demo_client.chat.completions.parse(
        model="default",
        messages=[{"role": "user", "content": question}],
        response_format=Person,
        max_completion_tokens=200,
        temperature=0,
        logprobs=True,
    )

    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Person)
    assert choice.logprobs is not None
    assert "".join(entry.token for entry in choice.logprobs.content or []) == choice.message.content


def test_a_json_object_may_be_streamed(demo_client: openai.OpenAI) -> None:
    text, reason = "", None
    for chunk in demo_client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "List three colours as JSON."}],
        response_format={"type": "json_object"},
        max_tokens=200,
        temperature=0,
        stream=True,
    ):
        text += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason

    assert text.startswith("{")
    assert reason in ("stop", "length")
    if reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_a_schema_that_cannot_be_enforced_is_a_400(demo_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        demo_client.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": "x"}],
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strin"}}},
        )

    assert caught.value.param == "response_format.json_schema.schema"
    assert "Invalid type" in caught.value.message


def test_a_biased_token_is_all_that_is_said(demo_client: openai.OpenAI) -> None:
    def said(**fields: object) -> openai.types.Completion:
        return demo_client.completions.create(model="default", prompt="x", max_tokens=3, temperature=0, **fields)  # type: ignore[call-overload,no-any-return]

    usual = said(logprobs=1).choices[0].logprobs
    biased = said(logit_bias={"42": 100}, logprobs=0).choices[0].logprobs
    assert usual is not None
    assert biased is not None
    assert len(set(biased.tokens or ())) == 1
    assert biased.tokens != usual.tokens
    with pytest.raises(openai.BadRequestError) as caught:
        said(logit_bias={"49152": 1})
    assert caught.value.param == "logit_bias"


def test_a_prompt_may_be_tokens(demo_client: openai.OpenAI) -> None:
    as_tokens = demo_client.completions.create(model="default", prompt=[504, 3575], max_tokens=4, temperature=0)

    assert as_tokens.usage is not None
    assert as_tokens.usage.prompt_tokens == 2
    with pytest.raises(openai.BadRequestError) as caught:
        demo_client.completions.create(model="default", prompt=[49152], max_tokens=4)
    assert caught.value.param == "prompt"
