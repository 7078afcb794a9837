"""A server as a user starts it: `manage.py up` on a free port, with a data folder of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from llama_gpu_site.supervisor.instance import free_port

ROOT = Path(__file__).parents[1]
# Shared by all runs of the tests, so that the demo model is fetched and converted once.
MODELS_DIR = Path(os.environ.get("LLAMA_GPU_MODELS_DIR") or ROOT / ".cache" / "models")
START_SECONDS = 300.0
STOP_SECONDS = 30.0


@dataclass
class RunningServer:
    """A server and what its tests need to know of it."""

    url: str
    api_key: str
    admin_password: str
    data_dir: Path
    log_path: Path
    process: subprocess.Popen[bytes]
    _log_seen: int = 0

    @property
    def models_root(self) -> Path:
        """A folder that models may be registered from, where the server was started with it as a model root."""
        return self.data_dir.parent / "models"

    @property
    def redis_url(self) -> str:
        return str(self.instance()["redis_url"])

    @property
    def headers(self) -> dict[str, str]:
        """What a request with the first key carries."""
        return {"Authorization": f"Bearer {self.api_key}"}

    def instance(self) -> dict[str, Any]:
        """What the server says of itself: url, redis_url, model, ready, and the pids of its processes by name."""
        content: dict[str, Any] = json.loads((self.data_dir / "instance.json").read_text())
        return content

    def pid_of(self, name: str) -> int | None:
        """The pid of `web`, `worker-cpu`, `scheduler` or `valkey`; None while it is not running."""
        pid: int | None = self.instance()["processes"][name]
        return pid

    def engine_pids(self) -> list[int]:
        """The engine processes of this server's workers."""
        return [
            process.pid
            for process in psutil.Process(self.process.pid).children(recursive=True)
            if "engine.runtime" in process.cmdline()
        ]

    def log(self) -> str:
        """Everything the server's processes wrote so far."""
        return self.log_path.read_text(errors="replace")

    def new_log(self, forget: bool) -> str:
        """What was written since the last call with `forget`."""
        text = self.log()
        new = text[self._log_seen :]
        if forget:
            self._log_seen = len(text)
        return new


@contextmanager
def running_server(folder: Path, **settings: str) -> Iterator[RunningServer]:
    """Start a server with these environment variables, wait until it is ready, and end it at the end."""
    port = free_port()
    api_key, admin_password = "test-key-0123456789abcdef", "test-password-0123"
    data_dir, log_path = folder / "data", folder / "server.log"
    environment = {
        **os.environ,
        "LLAMA_GPU_PORT": str(port),
        "LLAMA_GPU_DATA_DIR": str(data_dir),
        "LLAMA_GPU_MODELS_DIR": str(MODELS_DIR),
        "LLAMA_GPU_API_KEY": api_key,
        "LLAMA_GPU_ADMIN_PASSWORD": admin_password,
        **settings,
    }
    environment.pop("REDIS_URL", None)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "up"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    server = RunningServer(f"http://127.0.0.1:{port}", api_key, admin_password, data_dir, log_path, process)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        stop(server)


def stop(server: RunningServer) -> None:
    """End the server as its owner would; if it hangs, as nobody should have to."""
    if server.process.poll() is not None:
        return
    server.process.terminate()
    try:
        server.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(server.process.pid, signal.SIGKILL)  # its leash ends the others
        server.process.wait()
        raise


def _wait_until_ready(server: RunningServer) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            instance = server.instance()
            if instance["ready"] and instance["pid"] == server.process.pid:
                return
        except (OSError, ValueError):
            pass
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended with status {server.process.returncode}:\n{server.log()}")
        if time.monotonic() > deadline:
            raise AssertionError(f"the server was not ready after {START_SECONDS:.0f} s:\n{server.log()}")
        time.sleep(0.1)
