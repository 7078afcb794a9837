"""Running servers, as the tests of jobs look at them."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.running_server import RunningServer, running_server

PATIENCE = 60.0


class JobServer:
    """A running server, and what its jobs' tests ask of it."""

    def __init__(self, running: RunningServer) -> None:
        self.running = running
        self.url = running.url
        self.headers = running.headers
        self.client = httpx.Client(base_url=f"{running.url}/api/v1", headers=running.headers, timeout=30)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """The answer's body. A web process that is being started again is waited for."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self.client.request(method, path, **options)
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                continue
            if answer.status_code == 503 and method == "GET" and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            assert answer.status_code < 300, answer.text
            return answer.json() if answer.headers["Content-Type"] == "application/json" else answer.text

    def submit(self, lines: str, **query: Any) -> Any:
        """The job of a file of JSON Lines."""
        headers = {"Content-Type": "application/x-ndjson"}
        return self.ask("POST", "/jobs", content=lines.encode(), params=query, headers=headers)["job"]

    def job(self, job_id: str) -> Any:
        return self.ask("GET", f"/jobs/{job_id}", params={"limit": 0})["job"]

    def wait(self, job_id: str, until: Callable[[Any], bool] | None = None) -> Any:
        """Wait until a job has ended, or for something else of it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            job = self.job(job_id)
            if until(job) if until is not None else job["ended_at"]:
                return job
            if time.monotonic() > deadline:
                pytest.fail(f"not within {PATIENCE:g} s: {job}")
            time.sleep(0.05)


@pytest.fixture(scope="session")
def jobs(echo_server: RunningServer) -> Iterator[JobServer]:
    """Echoes as fast as it can."""
    server = JobServer(echo_server)
    yield server
    server.client.close()


@pytest.fixture(scope="session")
def paced_jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    """Echoes 50 tokens a second and request, so that a job runs for a while; its processes may be killed."""
    folder: Path = tmp_path_factory.mktemp("paced_jobs")
    with running_server(folder, LLAMA_GPU_DEFAULT_MODEL="echo", LLAMA_GPU_ECHO_DELAY="0.02") as running:
        server = JobServer(running)
        yield server
        server.client.close()
