"""The bundled model, over HTTP: real text, the same greedy text by every road."""

import json

import httpx

from tests.running_server import RunningServer

QUESTION = "What is the capital of France? Answer in one short sentence."


def post(server: RunningServer, path: str, body: object) -> httpx.Response:
    return httpx.post(f"{server.url}/api/v1/{path}", json=body, headers=server.headers, timeout=300)


def test_all_roads_give_the_same_greedy_text(server: RunningServer) -> None:
    body = {"text": QUESTION, "max_tokens": 24, "temperature": 0}
    result = post(server, "infer", body).json()["result"]

    lines = [
        json.loads(line[6:])
        for line in post(server, "stream_infer", body).text.split("\n\n")
        if line.startswith("data: ")
    ]
    batch = post(server, "batch_infer", {"inputs": [body, {**body, "id": "b"}]}).json()["results"]

    assert "Paris" in result["generated_text"]
    assert result["model_used"] == "smollm2-135m-instruct"
    assert lines[-1]["final_text"] == "".join(line["token"] for line in lines) == result["generated_text"]
    assert [item["generated_text"] for item in batch] == [result["generated_text"]] * 2


def test_a_prompt_and_chat_turns_say_the_same_to_a_chat_model(server: RunningServer) -> None:
    sampling = {"max_tokens": 12, "temperature": 0}
    text = post(server, "infer", {"text": QUESTION, **sampling}).json()["result"]
    turns = post(server, "infer", {"messages": [{"role": "user", "content": QUESTION}], **sampling}).json()["result"]

    assert text["generated_text"] == turns["generated_text"]
    assert text["prompt_tokens"] == turns["prompt_tokens"]


def test_a_seed_makes_sampling_repeatable(server: RunningServer) -> None:
    body = {"text": "Tell a story.", "max_tokens": 16, "temperature": 1.0, "seed": 7}

    first, second = (post(server, "infer", body).json()["result"]["generated_text"] for _ in range(2))

    assert first == second


def test_a_mixed_batch_of_the_model(server: RunningServer) -> None:
    inputs = [
        {"id": "greedy", "text": QUESTION, "temperature": 0},
        {"id": "sampled", "text": "Tell a story.", "top_p": 0.9, "top_k": 40, "seed": 3},
        {"id": "stopped", "text": "Count from one to ten.", "temperature": 0, "stop": ["\n"]},
        {"id": "too long", "text": "x", "max_tokens": 100_000},
    ]
    results = {
        item["id"]: item for item in post(server, "batch_infer", {"inputs": inputs, "max_tokens": 12}).json()["results"]
    }

    assert results["too long"]["error"]["details"]["field"] == "inputs[3].max_tokens"
    assert all(results[name]["generated_text"] for name in ("greedy", "sampled"))
    assert "\n" not in results["stopped"]["generated_text"]
