"""A running server with the demo model and two made ones on the CPU at once: loads, unloads, and what goes wrong."""

import asyncio
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import socketio
from gguf import GGMLQuantizationType

from models_mgmt.demo import MODEL_ID
from tests.models_mgmt.fake_hub import FakeHub, running_hub
from tests.models_mgmt.made_models import write_gguf
from tests.random_models import random_model
from tests.running_server import MODELS_DIR, RunningServer, running_server

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
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, roots: Path, hub: FakeHub) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("deployments")
    with running_server(
        folder,
        LLAMA_GPU_MODEL_ROOTS=str(roots),
        LLAMA_GPU_KEEP_ALIVE="0",
        LLAMA_GPU_HUB_ENDPOINT=hub.url,
        LLAMA_GPU_HUB_CACHE=str(folder / "cache"),
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
    told: list[tuple[float, str]] = []

    def is_loaded() -> bool:
        record = server.record("small")
        told.extend((item["progress"], item["stage"]) for item in record["deployments"] if item["state"] == "loading")
        return bool(record["loaded"])

    server.wait(is_loaded)
    assert {"import", "read"} & {stage for _, stage in told}
    assert [share for share, _ in told] == sorted(share for share, _ in told)
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


@contextmanager
def watching(server: Server) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """The model_events of one model until it is loaded or has failed, as a stock client of Socket.IO hears them."""
    with socketio.SimpleClient() as client:
        client.connect(server.running.url, auth={"token": server.running.api_key})
        assert client.call("subscribe", {"channels": ["model_events"]}, timeout=30)["granted"] == ["model_events"]

        def heard(model: str) -> list[dict[str, Any]]:
            events: list[dict[str, Any]] = []
            while not events or events[-1]["event"] not in {"model_loaded", "model_load_failed"}:
                _, data = client.receive(timeout=60)
                events += [data] if data.get("model") == model else []
            return events

        yield heard


def stages(events: list[dict[str, Any]]) -> list[str]:
    told = [event["stage"] for event in events if event["event"] == "model_loading"]
    return [stage for stage, _ in itertools.groupby(told)]


def test_a_repository_is_downloaded_quantised_and_loaded_and_each_stage_is_told_in_order(
    server: Server, hub: FakeHub, roots: Path
) -> None:
    hub.push("made-up/tiny", {path.name: path.read_bytes() for path in (roots / "tiny").iterdir()})
    assert server.call("POST", "models", source="made-up/tiny", id="from-hub").status_code == 201
    with watching(server) as heard:
        loaded = server.load("from-hub", quantization="int8")
        events = heard("from-hub")

    assert loaded.status_code == 200, loaded.text
    assert stages(events) == ["download", "import", "read", "quantise", "warm up"]
    assert [event["progress"] for event in events[:-1]] == sorted(event["progress"] for event in events[:-1])
    assert events[-1]["quantization"] == server.record("from-hub")["quantization"] == "int8"
    assert events[-1]["memory_usage_bytes"] == loaded.json()["model"]["memory_usage_bytes"]
    assert server.infer("from-hub").status_code == 200
    server.unload("from-hub")


def test_a_gguf_file_is_converted_and_loaded_in_as_few_bits_and_its_conversion_can_be_deleted(
    server: Server, roots: Path
) -> None:
    gguf = write_gguf(roots / "tiny.Q4_0.gguf", layers_as=GGMLQuantizationType.Q4_0, feed_forward=64)
    assert server.call("POST", "models", source=gguf.name, id="from-gguf").status_code == 201
    with watching(server) as heard:
        loaded = server.load("from-gguf", quantization="gguf")
        events = heard("from-gguf")
    assert loaded.status_code == 200, loaded.text
    assert stages(events) == ["convert", "import", "read", "quantise", "warm up"]
    assert server.record("from-gguf")["quantization"] == "int4"
    assert server.infer("from-gguf").status_code == 200
    refused = server.call("DELETE", "models/from-gguf?files=true")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "CONFLICT")

    server.unload("from-gguf")
    deleted = server.call("DELETE", "models/from-gguf?files=true").json()
    assert deleted["freed_disk_bytes"] > 10_000
    assert not list((MODELS_DIR / "converted").glob("tiny.Q4_0-*"))
    assert gguf.exists()


def test_a_model_that_is_deleted_while_it_loads_leaves_no_engine(server: Server, roots: Path) -> None:
    engines = set(server.running.engine_pids())
    server.register(roots / "tiny", "short-lived")
    assert server.load("short-lived", **{"async": True}).status_code == 202
    refused = server.call("DELETE", "models/short-lived")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "CONFLICT")
    assert server.call("DELETE", "models/short-lived?force=true").status_code == 200
    server.wait(lambda: set(server.running.engine_pids()) == engines)
    workers = server.call("GET", "system/workers").json()["workers"]
    assert "short-lived" not in {model["model"] for model in workers[0]["models"]}


def test_a_killed_workers_models_come_back_as_they_were_asked_for(server: Server) -> None:
    assert server.load("tiny", quantization="fp32").status_code == 200
    pid = server.running.pid_of("worker-cpu")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    server.wait(lambda: not server.record("tiny")["loaded"], 15)
    server.wait(lambda: bool(server.record("tiny")["loaded"]) and bool(server.record(MODEL_ID)["loaded"]))
    assert server.record("tiny")["quantization"] == "fp32"
    server.unload("tiny")
