"""Running servers with the echo model: the real processes, as `manage.py up` starts them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.test import override_settings

from models_mgmt.presence import WorkerReport, live_workers
from tests.conftest import free_port

ROOT = Path(__file__).resolve().parents[2]
API_KEY = "test-key-of-the-inference-tests"


@dataclass
class EchoServer:
    """A running server. `headers` carry its key, `redis_url` is what its processes share."""

    url: str
    redis_url: str
    log: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {API_KEY}"}

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=200)
        return httpx.AsyncClient(base_url=f"{self.url}/api/v1", headers=self.headers, timeout=60, limits=limits)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return httpx.post(f"{self.url}/api/v1/{path}", json=body, headers={**self.headers, **headers}, timeout=60)

    def workers(self) -> list[WorkerReport]:
        with override_settings(REDIS_URL=self.redis_url):
            return live_workers()

    def worker(self) -> WorkerReport:
        """The one worker, waited for."""
        wait_until(lambda: bool(self.workers()))
        return max(self.workers(), key=lambda worker: worker.started_at)

    def running(self) -> int:
        return sum(item.running + item.waiting for worker in self.workers() for item in worker.deployments)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0, pause: float = 0.05) -> float:
    """Wait for a condition; returns how long it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            pytest.fail(f"not within {seconds:g} s")
        time.sleep(pause)
    return time.monotonic() - began


@contextlib.contextmanager
def _running(folder: Path, redis_url: str, **variables: str) -> Iterator[EchoServer]:
    port = free_port()
    environment = dict(
        os.environ,
        LLAMA_GPU_DATA_DIR=str(folder),
        LLAMA_GPU_PORT=str(port),
        LLAMA_GPU_DEFAULT_MODEL="echo",
        LLAMA_GPU_API_KEY=API_KEY,
        LLAMA_GPU_ADMIN_PASSWORD="a-password-for-tests",
        LLAMA_GPU_DEVICES="cpu",
        REDIS_URL=redis_url,
        **variables,
    )
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "up"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        server = EchoServer(url=f"http://127.0.0.1:{port}", redis_url=redis_url, log=log)
        try:
            wait_until(lambda: b"is ready" in log.read_bytes() or process.poll() is not None, 60)
            assert process.poll() is None, log.read_text()
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="session")
def instant_server(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """Echoes as fast as it can, and forgives slow readers little."""
    url = f"{redis_url.removesuffix('/0')}/1"
    folder = tmp_path_factory.mktemp("instant")
    with _running(folder, url, LLAMA_GPU_STREAM_BUFFER_EVENTS="256", LLAMA_GPU_SLOW_READER_SECONDS="2") as server:
        yield server


@pytest.fixture(scope="session")
def paced_server(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """Echoes 100 tokens a second and request, and queues at most 80 requests."""
    url = f"{redis_url.removesuffix('/0')}/2"
    folder = tmp_path_factory.mktemp("paced")
    pace = {"LLAMA_GPU_ECHO_DELAY": "0.01", "LLAMA_GPU_MAX_QUEUE": "80", "LLAMA_GPU_SSE_KEEP_ALIVE": "0.2"}
    with _running(folder, url, **pace) as server:
        yield server
