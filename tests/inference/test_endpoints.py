"""Each endpoint, through the real processes."""

import json
from typing import Any

import httpx
import pytest

from tests.inference.conftest import EchoServer

TEXT = "one two three four"


def lines_of(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("path", ["infer", "infer/"])
def test_infer_answers_as_documented(instant_server: EchoServer, path: str) -> None:
    answer = instant_server.post(path, {"text": TEXT, "max_tokens": 6})

    assert answer.status_code == 200
    body = answer.json()
    assert body["success"] is True
    result = body["result"]
    assert result["generated_text"] == "one two three fourone two"
    assert result["tokens_generated"] == 6
    assert result["prompt_tokens"] == 4
    assert result["finish_reason"] == "length"
    assert result["model_used"] == "echo"
    assert result["backend"] == "cpu"
    assert 0 <= result["queue_time"] <= result["time_to_first_token"]
    assert result["inference_time"] <= body["metadata"]["processing_time"]
    assert body["metadata"]["request_id"] == answer.headers["X-Request-ID"]
    assert answer.headers["X-RateLimit-Limit"] == "10000"


def test_the_clients_request_id_is_kept_even_when_it_repeats(instant_server: EchoServer) -> None:
    for _ in range(2):
        answer = instant_server.post("infer", {"text": TEXT, "max_tokens": 1}, **{"X-Request-ID": "mine-1"})

        assert answer.json()["metadata"]["request_id"] == "mine-1"


@pytest.mark.parametrize("path", ["stream_infer", "stream_infer/"])
def test_stream_infer_sends_the_documented_lines(instant_server: EchoServer, path: str) -> None:
    answer = instant_server.post(path, {"text": TEXT, "max_tokens": 6, "stream": True})

    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.headers["X-RateLimit-Limit"] == "5000"
    assert answer.text.startswith('data: {"token": "one", "position": 0, "is_complete": false}\n\n')
    *deltas, last = lines_of(answer)
    assert [line["position"] for line in [*deltas, last]] == list(range(6))
    assert not any(line["is_complete"] for line in deltas)
    assert last["is_complete"] is True
    assert "".join(line["token"] for line in [*deltas, last]) == last["final_text"] == "one two three fourone two"
    assert last["tokens_generated"] == 6
    assert last["finish_reason"] == "length"


def test_a_streaming_infer_answers_as_stream_infer_and_counts_as_infer(instant_server: EchoServer) -> None:
    answer = instant_server.post("infer", {"text": TEXT, "max_tokens": 3, "stream": True})

    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["X-RateLimit-Limit"] == "10000"
    assert lines_of(answer)[-1]["final_text"] == "one two three"


@pytest.mark.parametrize("text", ["日本語のテキスト と 🦙🦙🦙 und Größe", 'a\u2028b\u2029c \r\n\t\x7f " \\ </script>'])
def test_joined_deltas_are_the_final_text(instant_server: EchoServer, text: str) -> None:
    *deltas, last = lines_of(instant_server.post("stream_infer", {"text": text, "max_tokens": 40}))

    assert "".join(line["token"] for line in [*deltas, last]) == last["final_text"]
    assert last["final_text"].startswith(text)


def test_batch_infer_answers_as_documented(instant_server: EchoServer) -> None:
    body = {"inputs": [{"id": "req_1", "text": "a b", "max_tokens": 2}, {"text": "c d"}], "max_tokens": 3}
    answer = instant_server.post("batch_infer", body)

    assert answer.status_code == 200
    assert answer.headers["X-RateLimit-Limit"] == "1000"
    payload = answer.json()
    first, second = payload["results"]
    assert (first["id"], first["generated_text"], first["tokens_generated"]) == ("req_1", "a b", 2)
    assert (second["id"], second["generated_text"], second["tokens_generated"]) == ("1", "c dc", 3)
    assert first["inference_time"] >= 0
    metadata = payload["metadata"]
    assert metadata["items_processed"] == 2
    assert metadata["backend"] == "cpu"
    assert metadata["batch_id"].startswith("batch_")
    assert metadata["total_processing_time"] > 0


def test_a_mixed_batch_keeps_its_order_and_bad_items_fail_alone(instant_server: EchoServer) -> None:
    inputs: list[dict[str, Any]] = [
        {"id": f"item {n}", "text": f"word{n} tail", "max_tokens": n + 1} for n in range(20)
    ]
    inputs[3] = {"id": "broken", "text": "[[fail]]"}
    inputs[7] = {"id": "typed", "text": "x", "max_tokens": "5"}
    inputs[11] = {"id": "long", "text": "x", "max_tokens": 100_000}

    results = instant_server.post("batch_infer", {"inputs": inputs, "temperature": 0.5}).json()["results"]

    assert [item["id"] for item in results] == [item["id"] for item in inputs]
    assert results[3]["error"]["code"] == "INFERENCE_FAILED"
    assert results[7]["error"]["code"] == "INVALID_INPUT"
    assert results[7]["error"]["details"]["field"] == "inputs[7].max_tokens"
    assert results[11]["error"]["code"] == "INVALID_INPUT"
    assert results[11]["error"]["details"]["field"].startswith("inputs[11].")
    good = [item for index, item in enumerate(results) if index not in {3, 7, 11}]
    assert all("error" not in item and item["tokens_generated"] for item in good)


@pytest.mark.parametrize("path", ["infer", "stream_infer"])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": "x", "max_tokens": "5"}, "max_tokens"),
        ({"text": "x", "max_tokens": 8192}, "max_tokens"),
        ({"text": "x", "surprise": 1}, "surprise"),
        ({"text": "x" * 4097}, "text"),
        ({"text": "x", "async": "yes"}, "async"),
    ],
)
def test_bad_input_is_a_400_that_names_the_field(
    instant_server: EchoServer, path: str, body: dict[str, Any], field: str
) -> None:
    answer = instant_server.post(path, body)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "INVALID_INPUT"
    assert answer.json()["error"]["details"]["field"] == field


def test_a_prompt_beyond_the_context_tells_the_token_counts(instant_server: EchoServer) -> None:
    details = instant_server.post("stream_infer", {"text": "x " * 2000, "max_tokens": 8000}).json()["error"]["details"]

    assert details["context_length"] == 8192
    assert details["prompt_tokens"] > 1000
    assert details["max_tokens"] == 8000


def test_stream_false_is_refused_where_everything_streams(instant_server: EchoServer) -> None:
    answer = instant_server.post("stream_infer", {"text": "x", "stream": False})

    assert answer.json()["error"]["details"]["field"] == "stream"


@pytest.mark.parametrize("path", ["infer", "stream_infer", "batch_infer"])
def test_an_unknown_model_is_a_404(instant_server: EchoServer, path: str) -> None:
    body = {"inputs": [{"text": "x"}]} if path == "batch_infer" else {"text": "x"}
    answer = instant_server.post(path, {**body, "model": "no-such-model"})

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("path", ["infer", "stream_infer", "batch_infer"])
def test_it_needs_a_key(instant_server: EchoServer, path: str) -> None:
    answer = httpx.post(f"{instant_server.url}/api/v1/{path}", json={"text": "x"})

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "AUTHENTICATION_FAILED"
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["infer", "stream_infer", "batch_infer"])
def test_it_takes_post_alone(instant_server: EchoServer, path: str) -> None:
    answer = httpx.get(f"{instant_server.url}/api/v1/{path}", headers=instant_server.headers)

    assert answer.status_code == 405


def test_an_engines_failure_is_inference_failed(instant_server: EchoServer) -> None:
    answer = instant_server.post("infer", {"text": "[[fail]]"})

    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "INFERENCE_FAILED"


def test_an_error_after_the_first_byte_is_an_error_event(instant_server: EchoServer) -> None:
    answer = instant_server.post("stream_infer", {"text": "[[fail]]"}, **{"X-Request-ID": "failing"})

    if answer.status_code == 200:
        event, data = answer.text.strip().splitlines()[-2:]
        assert event == "event: error"
        body = json.loads(data.removeprefix("data: "))
    else:  # the failure overtook the acceptance
        body = answer.json()
    assert body["success"] is False
    assert body["error"]["code"] == "INFERENCE_FAILED"
    assert body["request_id"] == "failing"


def test_stop_strings_and_seed_reach_the_engine(instant_server: EchoServer) -> None:
    result = instant_server.post("infer", {"text": TEXT, "max_tokens": 50, "stop": [" three"], "seed": 1}).json()[
        "result"
    ]

    assert result["generated_text"] == "one two"
    assert result["finish_reason"] == "stop"
