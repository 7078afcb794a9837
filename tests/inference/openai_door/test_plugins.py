"""The plugins of the server work on what comes through /v1, too."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from tests.running_server import RunningServer


@contextmanager
def plugin(server: RunningServer, plugin_id: str, **settings: Any) -> Iterator[None]:
    with httpx.Client(base_url=f"{server.url}/api/v1/plugins/{plugin_id}", headers=server.headers, timeout=60) as api:
        loaded = api.post("/load", json={"config": {"enabled": True, "settings": settings}})
        assert loaded.status_code == 200, loaded.text
        try:
            yield
        finally:
            assert api.delete("/unload").status_code == 200


def test_a_filter_works_on_answers_whole_and_streamed_and_on_calls(
    client: openai.OpenAI, echo_server: RunningServer
) -> None:
    def said(text: str, **fields: Any) -> Any:
        messages: Any = [{"role": "user", "content": text}]
        return client.chat.completions.create(model="echo", messages=messages, max_tokens=30, **fields)

    call = '<tool_call>{"name": "f", "arguments": {"to": "ada@lovelace.org"}}</tool_call>'
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with plugin(echo_server, "pii_redactor", kinds=["email"]):
        whole = said("write to ada@lovelace.org now").choices[0].message.content
        chunks = said("write to ada@lovelace.org now", stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        (made,) = said(call, tools=tools, parallel_tool_calls=False).choices[0].message.tool_calls

    assert "write to" in whole
    assert "ada@" not in whole + streamed + made.function.arguments
    assert streamed == whole


def test_tokens_that_plugins_cannot_read_are_refused(client: openai.OpenAI, echo_server: RunningServer) -> None:
    with plugin(echo_server, "model_adapter_v1"), pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="echo", prompt=[1, 2])

    assert caught.value.param == "prompt"
    assert "Plugins" in caught.value.message
