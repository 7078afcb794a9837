"""/health while the processes behind it are killed: each death is seen, and each return."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llama_gpu_site.supervisor.instance import free_port
from tests.inference.conftest import wait_until
from tests.running_server import RunningServer, running_server


def health(server: RunningServer) -> dict[str, Any]:
    answer = httpx.get(f"{server.url}/health", timeout=20)
    body: dict[str, Any] = answer.json()
    assert (answer.status_code == 503) == (body["status"] == "unhealthy")
    return body


def state(server: RunningServer, check: str) -> str:
    return str(health(server)["checks"][check]["status"])


def comes_to(server: RunningServer, check: str, status: str, seconds: float = 60.0) -> None:
    wait_until(lambda: state(server, check) == status, seconds, pause=0.02)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("health"), LLAMA_GPU_DEFAULT_MODEL="echo") as running:
        yield running


@pytest.fixture
def server(own_server: RunningServer) -> RunningServer:
    """As well as can be."""
    wait_until(lambda: health(own_server)["status"] == "healthy", 90)
    return own_server


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_a_killed_engine_is_seen(server: RunningServer) -> None:
    (pid,) = server.engine_pids()
    kill(pid)
    comes_to(server, "engines", "failed")
    comes_to(server, "engines", "ok")


def test_a_killed_worker_is_seen(server: RunningServer) -> None:
    first = server.pid_of("worker-cpu")
    assert first is not None
    # One that comes back before the others have missed it has not been away.
    os.kill(first, signal.SIGSTOP)
    comes_to(server, "workers", "failed")
    os.kill(first, signal.SIGKILL)
    comes_to(server, "workers", "ok")
    assert server.pid_of("worker-cpu") != first


def test_a_killed_redis_is_seen(server: RunningServer) -> None:
    kill(server.pid_of("valkey"))
    comes_to(server, "redis", "failed")
    comes_to(server, "redis", "ok")


def test_a_redis_that_hangs_is_seen(server: RunningServer) -> None:
    pid = server.pid_of("valkey")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        comes_to(server, "redis", "failed")
    finally:
        os.kill(pid, signal.SIGCONT)
    comes_to(server, "redis", "ok")


def test_a_killed_scheduler_is_seen(server: RunningServer) -> None:
    began = time.monotonic()
    while state(server, "scheduler") == "ok":  # it is started again after ever longer pauses
        if (pid := server.pid_of("scheduler")) is not None:
            kill(pid)
        assert time.monotonic() - began < 60
        time.sleep(0.5)
    assert health(server)["status"] == "degraded"
    comes_to(server, "scheduler", "ok", 90)


def test_a_database_whose_file_is_gone_is_seen(server: RunningServer) -> None:
    database = server.data_dir / "llama_gpu.sqlite3"
    aside = database.with_suffix(".aside")
    database.rename(aside)
    try:
        comes_to(server, "database", "failed")
    finally:
        aside.replace(database)
    comes_to(server, "database", "ok")


# ---------------------------------------------------------------- PostgreSQL


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


class Postgres:
    """A cluster of its own; its programs refuse root, so root lends it the user `postgres`."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder, self._programs = folder, programs
        self.port = free_port()
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres"
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as_user:
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "--no-sync")
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        data, log = str(self._folder / "data"), str(self._folder / "log")
        self._run("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")

    def start_again(self) -> None:
        """It refuses while processes of its predecessor still end."""
        for _ in range(20):
            try:
                return self.start()
            except subprocess.CalledProcessError:
                time.sleep(0.5)
        pytest.fail("PostgreSQL does not start again")

    def kill(self) -> None:
        os.kill(int((self._folder / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "stop", check=False)

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        command = [*self._as_user, str(self._programs / program), *arguments]
        subprocess.run(command, check=check, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed")
    folder = Path("/tmp") / f"health-{os.getpid()}"
    folder.mkdir()
    running = Postgres(folder, programs)
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_killed_postgresql_is_seen(tmp_path: Path, postgres: Postgres) -> None:
    with running_server(tmp_path, LLAMA_GPU_DEFAULT_MODEL="echo", DATABASE_URL=postgres.url) as server:
        comes_to(server, "database", "ok")
        postgres.kill()
        comes_to(server, "database", "failed")
        postgres.start_again()
        comes_to(server, "database", "ok")
