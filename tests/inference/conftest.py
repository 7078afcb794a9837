"""Running servers with the echo model, as the tests of inference look at them."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from django.test import override_settings

from models_mgmt.presence import WorkerReport, live_workers
from tests.running_server import RunningServer, running_server


class EchoServer:
    """A running server with what its tests ask of it."""

    def __init__(self, running: RunningServer) -> None:
        self.running_server = running
        self.url = running.url
        self.headers = running.headers
        self.redis_url = running.redis_url

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=200)
        return httpx.AsyncClient(base_url=f"{self.url}/api/v1", headers=self.headers, timeout=60, limits=limits)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return httpx.post(f"{self.url}/api/v1/{path}", json=body, headers={**self.headers, **headers}, timeout=60)

    def log(self) -> str:
        return self.running_server.log()

    def pid_of(self, name: str) -> int:
        pid = self.running_server.pid_of(name)
        assert pid is not None
        return pid

    def workers(self) -> list[WorkerReport]:
        with override_settings(REDIS_URL=self.redis_url):
            return live_workers()

    def worker(self) -> WorkerReport:
        """The one worker, waited for; the last one started, while the heartbeat of a dead one is still there."""
        wait_until(lambda: bool(self.workers()))
        return max(self.workers(), key=lambda worker: worker.started_at)

    def running(self) -> int:
        """How many requests the engines run or hold, as of the last heartbeats."""
        return sum(item.running + item.waiting for worker in self.workers() for item in worker.deployments)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0, pause: float = 0.05) -> float:
    """Wait for a condition; returns how long it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            pytest.fail(f"not within {seconds:g} s")
        time.sleep(pause)
    return time.monotonic() - began


@pytest.fixture(scope="session")
def instant_server(echo_server: RunningServer) -> EchoServer:
    """Echoes as fast as it can."""
    return EchoServer(echo_server)


@pytest.fixture(scope="session")
def paced_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """Echoes 100 tokens a second and request, queues at most 80 requests, and drains for 5 s."""
    with running_server(
        tmp_path_factory.mktemp("paced"),
        LLAMA_GPU_DEFAULT_MODEL="echo",
        LLAMA_GPU_ECHO_DELAY="0.01",
        LLAMA_GPU_MAX_QUEUE="80",
        LLAMA_GPU_SSE_KEEP_ALIVE="0.2",
        LLAMA_GPU_DRAIN_SECONDS="5",
    ) as running:
        yield EchoServer(running)
