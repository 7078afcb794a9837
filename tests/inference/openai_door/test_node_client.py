"""OpenAI's own package for JavaScript, under Node."""

import json
from pathlib import Path

from tests.inference.openai_door.conftest import in_node
from tests.running_server import RunningServer


def test_the_npm_package(node_client: Path, echo_server: RunningServer) -> None:
    said = in_node(node_client, "everything.mjs", echo_server)

    assert said["models"] == ["echo"]
    assert said["chat"]["choices"][0]["message"]["content"] == "one two three fourone two"
    assert said["chat"]["usage"]["total_tokens"] == 10
    assert said["streamed"] == "one two three fourone two"
    assert said["usage"]["completion_tokens"] == 6
    assert said["completion"] == "one two"
    assert said["unsupported"] == {"status": 400, "code": "unsupported_parameter", "param": "verbosity"}
    assert said["call"]["name"] == "get_weather"
    assert json.loads(said["call"]["arguments"]) == {"place": "Paris"}
    assert said["unknown"] == {"name": "AuthenticationError", "status": 401}
    assert said["failedStream"] == "inference_failed"
