"""A running server: what it says of itself, that it mends itself, and that nothing is left of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from llama_gpu_site.supervisor.instance import free_port
from tests.running_server import ROOT, RunningServer, running_server, stop

PROCESSES = ["valkey", "worker-cpu", "web", "scheduler"]


def generate(server: RunningServer) -> httpx.Response:
    body = {"text": "one two", "max_tokens": 3}
    return httpx.post(f"{server.url}/api/v1/infer", json=body, headers=server.headers, timeout=60)


def works(server: RunningServer) -> bool:
    try:
        return generate(server).status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_the_preset_key_opens_the_door(echo_server: RunningServer) -> None:
    assert generate(echo_server).status_code == 200


def test_the_preset_password_signs_in(echo_server: RunningServer) -> None:
    body = {"username": "admin", "password": echo_server.admin_password}
    assert httpx.post(f"{echo_server.url}/api/v1/auth/login", json=body, timeout=60).status_code == 200


def test_it_shows_address_and_a_first_request(echo_server: RunningServer) -> None:
    assert "LLaMA GPU is ready after" in echo_server.log()
    assert f"curl {echo_server.url.replace('127.0.0.1', 'localhost')}/api/v1/infer" in echo_server.log()


def test_preset_secrets_are_not_shown(echo_server: RunningServer) -> None:
    assert echo_server.api_key not in echo_server.log()
    assert echo_server.admin_password not in echo_server.log()


def test_its_processes_do_not_know_the_preset_secrets(echo_server: RunningServer) -> None:
    pid = echo_server.pid_of("web")
    assert pid is not None
    assert not {"LLAMA_GPU_API_KEY", "LLAMA_GPU_ADMIN_PASSWORD"} & psutil.Process(pid).environ().keys()


def test_its_files_are_for_its_owner_only(echo_server: RunningServer) -> None:
    assert echo_server.data_dir.stat().st_mode & 0o077 == 0


def test_a_second_server_on_its_data_folder_is_refused(echo_server: RunningServer) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "up"],
        cwd=ROOT,
        env={**os.environ, "LLAMA_GPU_DATA_DIR": str(echo_server.data_dir), "LLAMA_GPU_PORT": "5998"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Another LLaMA GPU server" in done.stderr


@pytest.mark.parametrize("name", PROCESSES)
def test_it_works_again_after_a_process_was_killed(echo_server: RunningServer, name: str) -> None:
    pid = echo_server.pid_of(name)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: echo_server.pid_of(name) not in (None, pid), seconds=20)
    until(lambda: works(echo_server), seconds=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_everything_it_started(tmp_path: Path, number: signal.Signals) -> None:
    with running_server(tmp_path, LLAMA_GPU_DEFAULT_MODEL="echo") as server:
        assert works(server)
        family = psutil.Process(server.process.pid).children(recursive=True)
        assert server.engine_pids()
        server.process.send_signal(number)
        assert server.process.wait(30) == 0
    assert not [process for process in family if is_alive(process)]
    assert not (server.data_dir / "instance.json").exists()


def test_a_useless_preset_key_ends_the_start_with_one_sentence(tmp_path: Path) -> None:
    environment = {**os.environ, "LLAMA_GPU_DATA_DIR": str(tmp_path), "LLAMA_GPU_API_KEY": "short"}
    environment |= {"LLAMA_GPU_PORT": str(free_port()), "LLAMA_GPU_ADMIN_PASSWORD": "test-password-0123"}
    environment.pop("REDIS_URL", None)
    up = [sys.executable, "manage.py", "up"]
    ended = subprocess.run(up, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    lines = [line for line in (ended.stdout + ended.stderr).splitlines() if "preparing the database" not in line]
    assert ended.returncode == 1
    assert len(lines) == 1, lines
    assert "LLAMA_GPU_API_KEY" in lines[0]


def test_running_streams_end_in_order_when_the_server_is_stopped(tmp_path: Path) -> None:
    body = {"text": "one two", "max_tokens": 2000}
    with running_server(tmp_path, LLAMA_GPU_DEFAULT_MODEL="echo", LLAMA_GPU_ECHO_DELAY="0.05") as server:
        url = f"{server.url}/api/v1/stream_infer"
        with httpx.stream("POST", url, json=body, headers=server.headers, timeout=60) as response:
            lines = response.iter_lines()
            assert "one" in next(lines)
            server.process.terminate()
            rest = list(lines)
    assert "event: error" in rest
    assert any("shutting down" in line for line in rest)


def test_a_killed_supervisor_leaves_nothing_behind_and_the_next_start_works(tmp_path: Path) -> None:
    with running_server(tmp_path, LLAMA_GPU_DEFAULT_MODEL="echo") as server:
        family = psutil.Process(server.process.pid).children(recursive=True)
        server.process.kill()
        server.process.wait()
        with running_server(tmp_path, LLAMA_GPU_DEFAULT_MODEL="echo") as after:
            assert not [process for process in family if is_alive(process)]
            assert works(after)
            stop(after)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
