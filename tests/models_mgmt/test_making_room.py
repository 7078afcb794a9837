"""Real engines that make room for others, and idle ones that go: tiny models in torch, and the echo model."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
from django.conf import settings

from models_mgmt.inspection import inspect
from models_mgmt.memory import estimate
from tests.inference.conftest import wait_until
from tests.random_models import random_model
from tests.running_server import RunningServer, running_server

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


class Server:
    """What the tests ask of it, as its administrator."""

    def __init__(self, running: RunningServer) -> None:
        self.running = running

    def call(self, method: str, path: str, **body: Any) -> httpx.Response:
        content = {"json": body} if body else {}
        url = f"{self.running.url}/api/v1/{path}"
        return httpx.request(method, url, headers=self.running.headers, timeout=120, **content)

    def register(self, source: object, model: str, **fields: Any) -> None:
        answer = self.call("POST", "models", source=str(source), id=model, **fields)
        assert answer.status_code == 201, answer.text

    def infer(self, model: str) -> None:
        answer = self.call("POST", "infer", model=model, text="a", max_tokens=2)
        assert answer.status_code == 200, answer.text

    def loaded(self) -> set[str]:
        """The models that are loaded, or on their way in or out."""
        models = self.call("GET", "models").json()["models"]
        return {model["id"] for model in models if model["state"] not in {"available", "failed"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("roots") / "tiny", **SHAPE)


@pytest.fixture(scope="module")
def narrow_server(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Server]:
    """Room for two tiny models, and not for a third."""
    needed = estimate(inspect(folder), quantization="auto", device_kind="cpu", context_length=None, max_sequences=32)
    with running_server(
        tmp_path_factory.mktemp("narrow"),
        LLAMA_GPU_DEFAULT_MODEL="echo",
        LLAMA_GPU_MODEL_ROOTS=str(folder.parent),
        LLAMA_GPU_EVICT="1",
        LLAMA_GPU_MAX_MEMORY=str(int(2.35 * needed.total)),
    ) as running:
        server = Server(running)
        for name in ("one", "two", "three"):
            server.register(folder, name)
        assert server.call("PATCH", "models/echo", pinned=True).status_code == 200
        yield server


def test_the_least_recently_used_model_makes_room_and_a_pinned_one_never(narrow_server: Server) -> None:
    server = narrow_server
    server.infer("one")
    server.infer("two")
    assert server.loaded() == {"echo", "one", "two"}
    server.infer("one")
    time.sleep(2 * settings.WORKER_HEARTBEAT_SECONDS)  # placement goes by the last heartbeat

    server.infer("three")
    assert server.loaded() == {"echo", "one", "three"}

    assert server.call("PATCH", "models/one", pinned=True).status_code == 200
    server.infer("two")
    assert server.loaded() == {"echo", "one", "two"}
    assert len(server.running.engine_pids()) == 3


def test_idle_models_are_unloaded_and_their_memory_is_free_but_pinned_ones_stay(
    tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> None:
    with running_server(
        tmp_path_factory.mktemp("idle"),
        LLAMA_GPU_DEFAULT_MODEL="echo",
        LLAMA_GPU_MODEL_ROOTS=str(folder.parent),
        LLAMA_GPU_KEEP_ALIVE="3",
    ) as running:
        server = Server(running)
        server.register(folder, "tiny")
        server.register("echo", "pinned", source_kind="echo", pinned=True)
        server.infer("pinned")
        server.infer("tiny")
        (tiny,) = (pid for pid in running.engine_pids() if psutil.Process(pid).memory_info().rss > 128 * 1024**2)

        wait_until(lambda: server.loaded() == {"pinned"}, 30)
        assert not psutil.pid_exists(tiny)
        assert len(running.engine_pids()) == 1

        server.infer("tiny")
        server.infer("echo")
        assert server.loaded() == {"echo", "pinned", "tiny"}


LOADS = 50
AT_ONCE = 4  # as many as a worker's control threads; what takes the time is that each engine imports torch
# Of a pool that grows to as many as are in use at once; a file that each load left open would be 46 more.
MORE_CONNECTIONS = 2 * AT_ONCE
_GROWTH_BYTES = 16 * 1024**2


def test_fifty_loads_and_unloads_leave_nothing_behind_in_the_worker(
    tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> None:
    with running_server(
        tmp_path_factory.mktemp("cycles"),
        LLAMA_GPU_DEFAULT_MODEL="echo",
        LLAMA_GPU_MODEL_ROOTS=str(folder.parent),
        LLAMA_GPU_RATE_LIMITS="models=100000/0",
    ) as running:
        server = Server(running)
        names = [f"tiny-{number}" for number in range(AT_ONCE)]
        for name in names:
            server.register(folder, name)
        pid = running.pid_of("worker-cpu")
        assert pid is not None
        worker = psutil.Process(pid)

        def cycles(name: str, count: int) -> None:
            for _ in range(count):
                loaded = server.call("POST", f"models/{name}/load")
                assert loaded.status_code == 200, loaded.text
                freed = server.call("DELETE", f"models/{name}/unload").json()
                assert freed["freed_memory_bytes"] > 64 * 1024**2

        def run(count: int) -> None:
            share, more = divmod(count, AT_ONCE)
            with ThreadPoolExecutor(AT_ONCE) as callers:
                shares = [share + (number < more) for number in range(AT_ONCE)]
                list(callers.map(cycles, names, shares))

        run(AT_ONCE)  # what a worker keeps from then on: its threads, its connections
        before = held_by(worker)
        run(LOADS - AT_ONCE)
        after = held_by(worker)

        assert after.children == before.children
        assert after.threads <= before.threads
        assert after.files <= before.files + MORE_CONNECTIONS
        assert after.memory < before.memory + _GROWTH_BYTES
        assert len(running.engine_pids()) == 1


class Held(NamedTuple):
    """What a process holds. Memory in bytes: of its own, without what it shares."""

    children: int
    threads: int
    files: int
    memory: int


def held_by(process: psutil.Process) -> Held:
    """Once what ends has ended: the least of some looks."""
    looks = []
    for _ in range(8):
        time.sleep(0.25)
        children = len(process.children(recursive=True))
        memory = process.memory_full_info().uss
        looks.append(Held(children, process.num_threads(), process.num_fds(), memory))
    return Held(*map(min, zip(*looks, strict=True)))
