"""Real engines that make room for others, and idle ones that go: tiny models in torch, and the echo model."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest

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
    "max_position_embeddings": 4096,
}
LONG = 4000  # tokens, which take seconds


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

    def running_requests(self, model: str) -> int:
        (worker,) = self.call("GET", "system/workers").json()["workers"]
        return sum(int(item["running"]) for item in worker["models"] if item["model"] == model)

    def engine_pid(self, model: str) -> int:
        (worker,) = self.call("GET", "system/workers").json()["workers"]
        (pid,) = (item["pid"] for item in worker["models"] if item["model"] == model)
        return int(pid)

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

    server.infer("three")
    assert server.loaded() == {"echo", "one", "three"}

    assert server.call("PATCH", "models/one", pinned=True).status_code == 200
    server.infer("two")
    assert server.loaded() == {"echo", "one", "two"}
    assert len(server.running.engine_pids()) == 3


def test_a_model_in_use_is_unloaded_once_its_requests_have_ended(narrow_server: Server) -> None:
    server = narrow_server
    server.infer("one")
    assert server.call("PATCH", "models/one", pinned=True).status_code == 200
    server.infer("two")
    assert server.loaded() == {"echo", "one", "two"}
    with ThreadPoolExecutor(1) as caller:
        busy = caller.submit(server.call, "POST", "infer", model="two", text="a", max_tokens=LONG, temperature=0)
        wait_until(lambda: server.running_requests("two") == 1)
        assert not busy.done()
        server.infer("three")
        assert busy.result().json()["result"]["tokens_generated"] == LONG
    assert server.loaded() == {"echo", "one", "three"}


def test_idle_models_are_unloaded_and_their_processes_end_but_pinned_ones_stay(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with running_server(
        tmp_path_factory.mktemp("idle"), LLAMA_GPU_DEFAULT_MODEL="echo", LLAMA_GPU_KEEP_ALIVE="2"
    ) as running:
        server = Server(running)
        server.register("echo", "pinned", source_kind="echo", pinned=True)
        server.register("echo", "used", source_kind="echo")
        server.infer("pinned")
        pinned = server.engine_pid("pinned")
        server.infer("used")
        used = server.engine_pid("used")

        wait_until(lambda: server.loaded() == {"pinned"}, 30)
        assert not psutil.pid_exists(used)
        assert running.engine_pids() == [pinned]

        server.infer("used")
        assert {"pinned", "used"} <= server.loaded()


LOADS = 50
AT_ONCE = 4
# Pools grow to as many threads and connections as are in use at once, at some time or other. What each load left behind
# would be more than ten times as much.
_POOLS = 4
_GROWTH_BYTES = 8 * 1024**2


def test_fifty_loads_and_unloads_leave_nothing_behind_in_the_worker(echo_server: RunningServer) -> None:
    """With the engine that loads fastest: what runs in it ends with its process, and all else is the same for it."""
    server = Server(echo_server)
    names = [f"cycled-{number}" for number in range(AT_ONCE)]
    for name in names:
        server.register("echo", name, source_kind="echo")
    pid = echo_server.pid_of("worker-cpu")
    assert pid is not None
    worker = psutil.Process(pid)

    def cycles(name: str, count: int) -> None:
        for _ in range(count):
            loaded = server.call("POST", f"models/{name}/load")
            assert loaded.status_code == 200, loaded.text
            freed = server.call("DELETE", f"models/{name}/unload").json()
            assert freed["freed_memory_bytes"] > 1024**2

    def run(count: int) -> None:
        share, more = divmod(count, AT_ONCE)
        with ThreadPoolExecutor(AT_ONCE) as callers:
            list(callers.map(cycles, names, [share + (number < more) for number in range(AT_ONCE)]))

    run(2 * AT_ONCE)  # what a worker keeps from then on: its pools
    before = held_by(worker)
    run(LOADS)
    after = held_by(worker)

    assert after.children == before.children
    assert after.threads <= before.threads + _POOLS
    assert after.files <= before.files + _POOLS
    assert after.memory < before.memory + _GROWTH_BYTES
    for name in names:
        assert server.call("DELETE", f"models/{name}").status_code == 200


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
