"""OpenAI's Python package against a real chat model."""

import httpx
import openai

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
