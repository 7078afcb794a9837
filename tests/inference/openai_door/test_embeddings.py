"""Embeddings through OpenAI's Python package, by the demo model."""

import struct
from base64 import b64decode
from typing import Any

import httpx
import openai
import pytest

from tests.running_server import RunningServer

TEXTS = ["The cat sleeps on the sofa.", "A kitten naps on the couch.", "Quarterly revenue rose by nine percent."]


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_texts_become_vectors_of_length_1_and_like_ones_are_near(demo_client: openai.OpenAI) -> None:
    answer = demo_client.embeddings.create(model="default", input=TEXTS)  # the client asks for base64 by itself
    cat, kitten, revenue = (entry.embedding for entry in answer.data)

    assert [entry.index for entry in answer.data] == [0, 1, 2]
    assert answer.model == "smollm2-135m-instruct"
    assert len(cat) == 576
    assert dot(cat, cat) == pytest.approx(1, abs=1e-5)
    assert dot(cat, kitten) > dot(cat, revenue)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 15


def test_one_text_is_the_same_in_either_encoding_and_as_tokens(server: RunningServer) -> None:
    def vector(**body: Any) -> tuple[list[float], int]:
        answer = httpx.post(f"{server.url}/v1/embeddings", json=body, headers=server.headers, timeout=120)
        assert answer.status_code == 200, answer.text
        (entry,) = answer.json()["data"]
        found = entry["embedding"]
        if isinstance(found, str):
            raw = b64decode(found)
            found = list(struct.unpack(f"<{len(raw) // 4}f", raw))
        return found, answer.json()["usage"]["prompt_tokens"]

    floats, tokens = vector(input=TEXTS[0])
    packed, _ = vector(input=TEXTS[0], encoding_format="base64")
    as_tokens, count = vector(input=list(range(100, 100 + tokens)))

    assert floats == pytest.approx(packed, abs=0.02)  # bf16, in a batch of another size maybe
    assert count == tokens == len(range(100, 100 + tokens))
    assert len(as_tokens) == len(floats)
    assert dot(as_tokens, floats) < 0.999


def test_more_texts_than_fit_into_one_batch_come_in_their_order(demo_client: openai.OpenAI) -> None:
    answer = demo_client.embeddings.create(model="default", input=[f"{n}" for n in range(70)])
    alone = demo_client.embeddings.create(model="default", input="69").data[0].embedding

    assert [entry.index for entry in answer.data] == list(range(70))
    assert dot(answer.data[69].embedding, alone) > 0.99


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [10_000_000]}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": "word " * 9000}, "input"),
        ({"input": "a", "dimensions": 64}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "surprise": 1}, "surprise"),
    ],
)
def test_what_is_not_possible_is_a_400_that_names_it(
    demo_client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        demo_client.post("/embeddings", body={"model": "default", **fields}, cast_to=object)

    assert caught.value.param == param


def test_a_model_that_makes_none_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="echo", input="a")

    assert caught.value.param == "model"
