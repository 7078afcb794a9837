"""A running server with the demo model and two made ones on the CPU at once: loads, unloads, and what goes wrong."""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from models_mgmt.demo import MODEL_ID
from tests.random_models import random_model
from tests.running_server import RunningServer, running_server

SHAPE = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}


class Server:
    """What the tests ask of a running server, as its administrator."""

    def __init__(self, running: RunningServer) -> None:
        self.running = running

    def call(self, method: str, path: str, **body: Any) -> httpx.Response:
        content = {"json": body} if body else {}
        url = f"{self.running.url}/api/v1/{path}"
        return httpx.request(method, url, headers=self.running.headers, timeout=120, **content)

    def load(self, model_id: str, **body: Any) -> httpx.Response:
        return self.call("POST", f"models/{model_id}/load", **body)

    def unload(self, model_id: str, query: str = "") -> httpx.Response:
        return self.call("DELETE", f"models/{model_id}/unload{query}")

    def register(self, folder: Path, model_id: str) -> None:
        answer = self.call("POST", "models", source=str(folder), id=model_id)
        assert answer.status_code == 201, answer.text

    def record(self, model_id: str) -> dict[str, Any]:
        record: dict[str, Any] = self.call("GET", f"models/{model_id}").json()["model"]
        return record

    def infer(self, model_id: str) -> httpx.Response:
        return self.call("POST", "infer", model=model_id, text="a", max_tokens=4, raw=True)

    def wait(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good models, one whose weights end too early, one whose configuration does not fit its weights."""
    root = tmp_path_factory.mktemp("models")
    random_model(root / "tiny", **SHAPE)
    random_model(root / "small", "qwen2", **{**SHAPE, "hidden_size": 512})
    for name in ("truncated", "misfit"):
        shutil.copytree(root / "tiny", root / name)
    weights = root / "truncated" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    config = root / "misfit" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 768}))
    return root


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, roots: Path) -> Iterator[Server]:
    with running_server(
        tmp_path_factory.mktemp("deployments"), LLAMA_GPU_MODEL_ROOTS=str(roots), LLAMA_GPU_KEEP_ALIVE="0"
    ) as running:
        server = Server(running)
        server.register(roots / "tiny", "tiny")
        server.register(roots / "small", "small")
        yield server


def test_three_models_run_at_once_and_give_their_memory_back(server: Server) -> None:
    for model_id in ("tiny", "small"):
        answer = server.load(model_id)
        assert answer.status_code == 200, answer.text
        loaded = answer.json()["model"]
        assert loaded["loaded"]
        # Beside other engines it takes less than alone: they share the pages of torch.
        assert loaded["memory_usage_bytes"] == pytest.approx(loaded["estimated_memory_bytes"], rel=0.25)
        assert loaded["load_time"] > 0
    engines = server.running.engine_pids()
    assert len(engines) == 3

    assert [server.infer(model_id).status_code for model_id in (MODEL_ID, "tiny", "small")] == [200] * 3

    for model_id in ("tiny", "small"):
        held = server.record(model_id)["memory_usage_bytes"]
        freed = server.unload(model_id).json()
        assert freed["message"] == "Model unloaded successfully"
        assert freed["freed_memory_bytes"] > 0.7 * held
        assert not server.record(model_id)["loaded"]
    assert len(server.running.engine_pids()) == 1
    assert sum(psutil.pid_exists(pid) for pid in engines) == 1


def test_what_is_loaded_already_stays_as_it_is(server: Server) -> None:
    first = server.load("tiny").json()["model"]
    again = server.load("tiny", quantization="fp32").json()
    assert again["message"] == "Model is already loaded"
    assert again["model"]["quantization"] == first["quantization"]
    server.unload("tiny")
    assert server.unload("tiny").json()["message"] == "Model was not loaded"


async def test_loading_twice_at_once_loads_once(server: Server) -> None:
    loads = server.running.log().count("model tiny loaded")
    answers = await asyncio.gather(*(asyncio.to_thread(server.load, "tiny") for _ in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert server.running.log().count("model tiny loaded") == loads + 1
    server.unload("tiny")


def test_an_async_load_answers_at_once_and_its_record_tells_how_it_goes(server: Server) -> None:
    answer = server.load("small", **{"async": True})
    assert answer.status_code == 202
    assert answer.json()["model"]["state"] == "loading"
    server.wait(lambda: bool(server.record("small")["loaded"]))
    server.unload("small")


@pytest.mark.parametrize("name", ["truncated", "misfit"])
def test_broken_files_fail_the_load_by_name_and_harm_nobody(server: Server, roots: Path, name: str) -> None:
    answer = server.call("POST", "models", source=str(roots / name), id=name)
    if answer.status_code == 201:
        answer = server.load(name)
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "MODEL_LOAD_FAILED"
        began = time.monotonic()
        again = server.infer(name)
        assert again.json()["error"] == {**answer.json()["error"], "details": again.json()["error"]["details"]}
        assert time.monotonic() - began < 1.0  # told, not tried again
    else:
        assert answer.status_code == 400
    assert str(roots) not in answer.text
    assert server.infer(MODEL_ID).status_code == 200


def test_too_little_memory_is_told_with_what_is_needed_and_free(server: Server) -> None:
    answer = server.load("small", max_memory="100MB")
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "INSUFFICIENT_MEMORY"
    assert error["details"]["needed_bytes"] > error["details"]["max_memory_bytes"] == 100 * 1024**2
    assert {item["model"] for item in error["details"]["could_be_unloaded"]} <= {MODEL_ID, "tiny"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"max_memory": "lots"}, 400, "INVALID_INPUT"),
        ({"max_memory": "0%"}, 400, "INVALID_INPUT"),
        ({"max_memory": 12}, 400, "INVALID_INPUT"),
        ({"quantization": "int3"}, 400, "INVALID_INPUT"),
        ({"device": "tpu"}, 400, "INVALID_INPUT"),
        ({"colour": "red"}, 400, "INVALID_INPUT"),
        ({"backend": "cuda"}, 503, "BACKEND_UNAVAILABLE"),
        ({"device": "cuda7"}, 503, "BACKEND_UNAVAILABLE"),
        ({"replicas": 3}, 503, "BACKEND_UNAVAILABLE"),
    ],
)
def test_what_cannot_be_is_refused_by_name(server: Server, body: dict[str, Any], status: int, code: str) -> None:
    answer = server.load("tiny", **body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_an_unknown_model_is_not_found(server: Server) -> None:
    for answer in (server.load("nobody"), server.unload("nobody"), server.infer("nobody")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "MODEL_NOT_FOUND")


def test_an_engine_killed_while_it_loads_fails_the_load_and_can_be_loaded_again(server: Server) -> None:
    before = set(server.running.engine_pids())
    assert server.load("small", **{"async": True}).status_code == 202
    server.wait(lambda: bool(set(server.running.engine_pids()) - before))
    (pid,) = set(server.running.engine_pids()) - before
    os.kill(pid, signal.SIGKILL)
    server.wait(lambda: server.record("small")["state"] == "failed")
    assert server.load("small").status_code == 200
    server.unload("small")


def stream(server: Server, lines: list[str]) -> None:
    body = {"model": "tiny", "text": "a", "max_tokens": 400, "raw": True, "temperature": 0}
    url = f"{server.running.url}/api/v1/stream_infer"
    with httpx.stream("POST", url, json=body, headers=server.running.headers, timeout=60) as answer:
        lines.extend(line for line in answer.iter_lines() if line)


async def test_an_unload_lets_a_stream_end_and_a_forced_one_ends_it(server: Server) -> None:
    assert server.load("tiny").status_code == 200
    patient: list[str] = []
    streaming = asyncio.ensure_future(asyncio.to_thread(stream, server, patient))
    await asyncio.to_thread(server.wait, lambda: bool(server.record("tiny")["deployments"][0]["running"]))
    assert (await asyncio.to_thread(server.unload, "tiny")).status_code == 200
    await streaming
    assert json.loads(patient[-1].removeprefix("data: "))["tokens_generated"] == 400

    assert server.load("tiny").status_code == 200
    cut: list[str] = []
    streaming = asyncio.ensure_future(asyncio.to_thread(stream, server, cut))
    await asyncio.to_thread(server.wait, lambda: bool(server.record("tiny")["deployments"][0]["running"]))
    assert (await asyncio.to_thread(server.unload, "tiny", "?force=true")).status_code == 200
    await streaming
    assert "event: error" in cut
    assert "unloaded while it ran" in cut[-1]


def test_a_load_does_not_wait_behind_requests(server: Server) -> None:
    """The worker's queue of requests is held up; its control queue is not."""
    os.kill(server.running.engine_pids()[0], signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert server.load("tiny").status_code == 200
        assert time.monotonic() - began < 60
    finally:
        for pid in server.running.engine_pids():
            os.kill(pid, signal.SIGCONT)
        server.unload("tiny")


def test_the_worker_is_listed_with_its_memory_and_models(server: Server) -> None:
    body = server.call("GET", "system/workers").json()
    (worker,) = body["workers"]
    assert (body["total_workers"], body["running_workers"]) == (1, 1)
    assert (worker["device"], worker["state"], worker["backend"]) == ("cpu", "running", "cpu")
    assert 0 < worker["memory_free_bytes"] < worker["memory_total_bytes"]
    assert {model["model"] for model in worker["models"] if model["state"] == "loaded"} == {MODEL_ID}


def test_a_killed_workers_models_come_back_as_they_were_asked_for(server: Server) -> None:
    assert server.load("tiny", quantization="fp32").status_code == 200
    pid = server.running.pid_of("worker-cpu")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    server.wait(lambda: not server.record("tiny")["loaded"], 15)
    server.wait(lambda: bool(server.record("tiny")["loaded"]) and bool(server.record(MODEL_ID)["loaded"]))
    assert server.record("tiny")["quantization"] == "fp32"
    server.unload("tiny")
