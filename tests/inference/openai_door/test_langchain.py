"""LangChain, on OpenAI's Python package."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.running_server import RunningServer


@pytest.fixture
async def model(echo_server: RunningServer) -> AsyncIterator[Any]:
    from langchain_openai import ChatOpenAI

    with httpx.Client() as client:
        async with httpx.AsyncClient() as async_client:
            yield ChatOpenAI(
                http_client=client,
                http_async_client=async_client,
                model="echo",
                base_url=f"{echo_server.url}/v1",
                api_key=lambda: echo_server.api_key,
                max_completion_tokens=6,
                stream_usage=True,
                use_responses_api=False,
            )


def test_a_chain_answers_and_streams(model: Any) -> None:
    answer = model.invoke("one two three four")
    chunks = list(model.stream("one two three four"))

    assert answer.content == "".join(chunk.content for chunk in chunks) == "one two three fourone two"
    assert answer.usage_metadata["total_tokens"] == 10
    assert answer.response_metadata["finish_reason"] == "length"
    assert sum(chunk.usage_metadata["total_tokens"] for chunk in chunks if chunk.usage_metadata) == 10


async def test_it_works_in_coroutines_and_batches(model: Any) -> None:
    answers = await model.abatch(["a b", "c d"])

    assert [answer.content for answer in answers] == ["a ba ba b", "c dc dc d"]


def test_a_bound_tool_is_called(model: Any) -> None:
    tool = {"name": "get_weather", "description": "The weather.", "parameters": {"type": "object", "properties": {}}}
    asked = '<tool_call>{"name": "get_weather", "arguments": {"place": "Paris"}}</tool_call>'
    answer = model.bind_tools([tool]).invoke(asked, max_completion_tokens=40, parallel_tool_calls=False)

    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"place": "Paris"})


def test_embeddings(server: RunningServer) -> None:
    from langchain_openai import OpenAIEmbeddings

    with httpx.Client() as client:
        embeddings: Any = OpenAIEmbeddings(
            http_client=client,
            model="default",
            base_url=f"{server.url}/v1",
            api_key=lambda: server.api_key,
            check_embedding_ctx_length=False,  # else it sends tokens of a tokenizer of OpenAI's
        )
        vectors = embeddings.embed_documents(["one", "two"])

    assert [len(vector) for vector in vectors] == [576, 576]
