"""Workers of two hosts on one server: replicas, a host that dies, and loads beside requests that take all threads."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from django.test import override_settings

from common.event_reader import read_events
from common.events import ModelLost
from common.redis import close_async_redis
from inference.gateway import BEAT_SECONDS
from tests.inference.conftest import wait_until
from tests.models_mgmt.made_models import model_files, write_files
from tests.monitoring.fake_nvml import build_fake_nvml, fake_environment
from tests.running_server import MODELS_DIR, ROOT, RunningServer, running_server

THREADS = 2  # of a worker, so that two requests fill it
SETTINGS = {
    "LLAMA_GPU_DEFAULT_MODEL": "echo",
    "LLAMA_GPU_ECHO_DELAY": "0.01",
    "LLAMA_GPU_DRAIN_SECONDS": "0",
    "LLAMA_GPU_RATE_LIMITS": "infer=100000/0,models=100000/0,system=100000/0",
}
LOST_SECONDS = 15.0
# Llama 2 7B, as its configuration has it.
LARGE = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
LOOK_SECONDS = 2 * BEAT_SECONDS  # until a web process has looked at the workers again


class Server:
    """What the tests ask of it, as its administrator."""

    def __init__(self, running: RunningServer) -> None:
        self.running = running
        self._callers = ThreadPoolExecutor(64)

    def call(self, method: str, path: str, **body: Any) -> httpx.Response:
        content = {"json": body} if body else {}
        url = f"{self.running.url}/api/v1/{path}"
        return httpx.request(method, url, headers=self.running.headers, timeout=60, **content)

    def start(self, model: str, *, tokens: int) -> "Future[httpx.Response]":
        """A request that takes 10 ms for each token; its answer comes later."""
        return self._callers.submit(self.call, "POST", "infer", model=model, text="a b c", max_tokens=tokens)

    def add(self, *names: str) -> None:
        for name in names:
            answer = self.call("POST", "models", source="echo", source_kind="echo", id=name)
            assert answer.status_code in {201, 409}, answer.text

    def load(self, model: str, **options: Any) -> httpx.Response:
        answer = self.call("POST", f"models/{model}/load", **options)
        assert answer.status_code == 200, answer.text
        return answer

    def record(self, model: str) -> dict[str, Any]:
        record: dict[str, Any] = self.call("GET", f"models/{model}").json()["model"]
        return record

    def listed(self, model: str) -> dict[str, Any]:
        models: list[dict[str, Any]] = self.call("GET", "models").json()["models"]
        return next(item for item in models if item["id"] == model)

    def workers(self) -> dict[str, dict[str, Any]]:
        """By host."""
        return {worker["host"]: worker for worker in self.call("GET", "system/workers").json()["workers"]}

    def active(self) -> dict[str, int]:
        return {host: worker["active_requests"] for host, worker in self.workers().items()}

    def states(self, model: str) -> dict[str, str]:
        """Of its deployments, by host."""
        return {item["host"]: item["state"] for item in self.record(model)["deployments"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("first-host")
    write_files(folder / "roots" / "large", model_files(**LARGE))
    first = {"LLAMA_GPU_WORKER_HOST": "first", "LLAMA_GPU_WORKER_THREADS": "64"}
    with running_server(folder, **SETTINGS, **first, LLAMA_GPU_MODEL_ROOTS=str(folder / "roots")) as running:
        yield Server(running)


@contextlib.contextmanager
def worker_of(
    host: str,
    server: Server,
    folder: Path,
    *,
    threads: int = THREADS,
    device: str = "cpu",
    environment: Mapping[str, str] = os.environ,
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker as another host starts it: with the server's database and Redis, and a host's name of its own."""
    environment = {
        **environment,
        **SETTINGS,
        "LLAMA_GPU_DATA_DIR": str(server.running.data_dir),
        "LLAMA_GPU_MODELS_DIR": str(MODELS_DIR),
        "REDIS_URL": server.running.redis_url,
        "LLAMA_GPU_WORKER_HOST": host,
        "LLAMA_GPU_WORKER_THREADS": str(threads),
    }
    command = [sys.executable, "manage.py", "worker", "--device", device]
    with (folder / f"{host}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: server.workers().get(host, {}).get("state") == "running", 30)
        yield process
    finally:
        process.kill()
        process.wait(10)
        wait_until(lambda: server.workers().get(host, {}).get("state") != "running")


def test_requests_go_to_the_less_busy_of_two_replicas(server: Server, tmp_path: Path) -> None:
    server.add("twice", "beside")
    with worker_of("second", server, tmp_path, threads=64):
        places = server.load("twice", replicas=2).json()["model"]["devices"]
        assert sorted(places) == ["first/cpu", "second/cpu"]
        assert server.states("twice") == {"first": "loaded", "second": "loaded"}

        time.sleep(LOOK_SECONDS)
        answers = [server.start("twice", tokens=800) for _ in range(8)]
        wait_until(lambda: server.active() == {"first": 4, "second": 4}, 8)
        assert [answer.result().status_code for answer in answers] == [200] * 8

        server.load("beside", device="second/cpu")
        beside = [server.start("beside", tokens=1200) for _ in range(4)]
        wait_until(lambda: server.active() == {"first": 0, "second": 4}, 8)
        time.sleep(LOOK_SECONDS)
        answers = [server.start("twice", tokens=800) for _ in range(4)]
        wait_until(lambda: server.active() == {"first": 4, "second": 4}, 8)
        assert [answer.result().status_code for answer in [*answers, *beside]] == [200] * 8

        unloaded = server.call("DELETE", "models/twice/unload?device=second/cpu")
        assert unloaded.json()["message"] == "Model unloaded successfully"
        assert server.states("twice") == {"first": "loaded"}


def test_a_killed_hosts_deployments_are_lost_in_time_and_its_queue_goes_elsewhere(
    server: Server, tmp_path: Path
) -> None:
    server.add("both", "alone", "queued")
    with worker_of("third", server, tmp_path) as process:
        server.load("both", replicas=2)
        server.load("alone", device="third/cpu")
        server.load("queued", device="third/cpu")
        begun = [server.start("queued", tokens=6000) for _ in range(THREADS)]
        wait_until(lambda: server.active()["third"] == THREADS)
        waiting = [server.start("queued", tokens=5) for _ in range(4)]
        wait_until(lambda: queued(server, "third") == 4)

        os.kill(process.pid, signal.SIGKILL)
        seconds = wait_until(
            lambda: server.states("alone") == {"third": "lost"} and "alone" in told_lost(server), LOST_SECONDS
        )
        wait_until(lambda: {"both", "alone", "queued"} <= told_lost(server), LOST_SECONDS - seconds)

    for answer in begun:
        assert answer.result().status_code == 500
        assert answer.result().json()["error"]["code"] == "INFERENCE_FAILED"
        assert "lost" in answer.result().json()["error"]["message"]
    assert [answer.result().status_code for answer in waiting] == [200] * 4
    assert server.states("queued") == {"first": "loaded", "third": "lost"}
    assert server.workers()["third"]["state"] == "lost"

    alone, both = server.listed("alone"), server.listed("both")
    assert (alone["state"], alone["loaded"], alone["lost_on"]) == ("lost", False, ["third/cpu"])
    assert (both["state"], both["loaded"], both["lost_on"]) == ("loaded", True, ["third/cpu"])
    assert server.record("alone")["state"] == "lost"
    command = [sys.executable, "manage.py", "models", "list"]
    environment = {**os.environ, "LLAMA_GPU_DATA_DIR": str(server.running.data_dir)}
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert "lost on third/cpu" in next(line for line in shown.splitlines() if line.startswith("alone "))
    assert "loaded on first/cpu, lost on third/cpu" in shown

    assert server.start("alone", tokens=2).result().status_code == 200
    assert server.listed("alone")["state"] == "loaded"


def test_a_lost_host_that_comes_back_loads_what_was_asked_for_and_an_unload_ends_that(
    server: Server, tmp_path: Path
) -> None:
    server.add("wanted", "dropped")
    with worker_of("fourth", server, tmp_path) as process:
        server.load("wanted", device="fourth/cpu")
        server.load("dropped", device="fourth/cpu")
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: server.listed("dropped")["state"] == server.listed("wanted")["state"] == "lost", 15)
    assert server.call("DELETE", "models/dropped/unload").json()["message"] == "Model was not loaded"
    assert server.listed("dropped")["state"] == "available"

    with worker_of("fourth", server, tmp_path):
        wait_until(lambda: server.states("wanted") == {"fourth": "loaded"})
        assert server.listed("wanted").get("lost_on") is None
        assert server.listed("dropped")["state"] == "available"


def test_requests_that_take_all_threads_hold_up_no_load_and_no_unload(server: Server, tmp_path: Path) -> None:
    server.add("filling", "loaded-meanwhile")
    with worker_of("fifth", server, tmp_path):
        server.load("filling", device="fifth/cpu")
        running = [server.start("filling", tokens=6000) for _ in range(THREADS)]
        wait_until(lambda: server.active()["fifth"] == THREADS)
        waiting = [server.start("filling", tokens=5) for _ in range(3)]
        wait_until(lambda: queued(server, "fifth") == 3)

        server.load("loaded-meanwhile", device="fifth/cpu")
        assert server.states("loaded-meanwhile") == {"fifth": "loaded"}
        unloaded = server.call("DELETE", "models/loaded-meanwhile/unload")
        assert unloaded.json()["message"] == "Model unloaded successfully"

        assert (server.active()["fifth"], queued(server, "fifth")) == (THREADS, 3)
        assert not any(answer.done() for answer in [*running, *waiting])
        server.call("DELETE", "models/filling/unload?force=true")
        assert [answer.result().status_code for answer in running] == [500] * THREADS
        assert [answer.result().status_code for answer in waiting] == [200] * 3  # for which it is loaded again


def test_a_gpus_free_memory_as_nvml_tells_it_decides_what_is_loaded_there(server: Server, tmp_path: Path) -> None:
    fake = fake_environment(build_fake_nvml(tmp_path), gpus=1)
    answer = server.call("POST", "models", source="large", id="large")
    assert answer.status_code == 201, answer.text
    with worker_of("gpus", server, tmp_path, device="cuda0", environment=fake):
        wait_until(lambda: server.workers()["gpus"]["memory_free_bytes"] == 5300 * 1024**2)
        assert server.workers()["gpus"]["memory_total_bytes"] == 24576 * 1024**2
        refused = server.call("POST", "models/large/load", device="gpus/cuda0", quantization="bf16")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "INSUFFICIENT_MEMORY")
    details = refused.json()["error"]["details"]
    assert details["needed_bytes"] > 13 * 1024**3
    assert (details["device"], details["free_bytes"], details["could_be_unloaded"]) == (
        "gpus/cuda0",
        5300 * 1024**2,
        [],
    )


def queued(server: Server, host: str) -> int:
    """How many jobs wait in the broker for that host's worker."""
    queue = server.workers()[host]["queue"]
    with redis.Redis.from_url(server.running.redis_url) as client:
        return sum(client.llen(name) for name in client.keys(f"*{queue}*") if client.type(name) == b"list")


def told_lost(server: Server) -> set[str]:
    """The models of which the scheduler has told that a deployment is lost."""

    async def read() -> set[str]:
        events = [recorded.event for recorded in await read_events()]
        await close_async_redis()
        return {event.model for event in events if isinstance(event, ModelLost)}

    with override_settings(REDIS_URL=server.running.redis_url):
        return asyncio.run(read())
