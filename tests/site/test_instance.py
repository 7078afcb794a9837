"""A server claims its data folder and its port, or says in one sentence why it can't."""

import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llama_gpu_site.supervisor import instance
from llama_gpu_site.supervisor.console import Console
from llama_gpu_site.supervisor.failure import StartError
from llama_gpu_site.supervisor.instance import DataDirLock, InstanceFile, check_data_dir, reserve_port


def lock(folder: Path) -> DataDirLock:
    return DataDirLock(folder, console=Console(io.StringIO()))


def test_a_second_server_on_the_same_data_folder_is_refused(tmp_path: Path) -> None:
    first = lock(tmp_path)
    with pytest.raises(StartError, match=f"process {os.getpid()}.*LLAMA_GPU_DATA_DIR"):
        lock(tmp_path)
    first.close()


def test_the_data_folder_is_free_again_after_the_server(tmp_path: Path) -> None:
    lock(tmp_path).close()
    lock(tmp_path).close()


def test_it_waits_for_what_a_killed_server_left_behind(tmp_path: Path) -> None:
    killed = lock(tmp_path)
    leftover = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"], pass_fds=[killed.fileno()])
    (tmp_path / "up.lock").write_text("999999999")  # a supervisor that is gone
    killed.close()
    lock(tmp_path).close()
    assert leftover.wait(5) == 0


def test_an_occupied_port_is_told_with_a_way_out() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(StartError, match=rf"Port {port} on 127\.0\.0\.1 can't be used.*LLAMA_GPU_PORT={port + 1}"):
            reserve_port("127.0.0.1", port)


def test_a_reserved_port_can_be_listened_on() -> None:
    with reserve_port("127.0.0.1", instance.free_port()) as sock:
        sock.listen()
        socket.create_connection(sock.getsockname(), timeout=5).close()


def test_a_host_of_another_machine_is_refused() -> None:
    with pytest.raises(StartError, match="can't be used"):
        reserve_port("192.0.2.1", instance.free_port())


def test_a_host_that_is_no_name_is_refused() -> None:
    with pytest.raises(StartError, match="LLAMA_GPU_HOST"):
        reserve_port("no such host", 5000)


def test_a_data_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StartError, match=r"can't be written.*LLAMA_GPU_DATA_DIR"):
        check_data_dir(tmp_path / "data")


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "NEEDED_BYTES", 2**62)
    with pytest.raises(StartError, match="MB free"):
        check_data_dir(tmp_path)


def test_the_instance_file_is_for_its_owner_only(tmp_path: Path) -> None:
    file = InstanceFile(tmp_path)
    file.write({"url": "http://127.0.0.1:5000"})
    assert file.path.stat().st_mode & 0o077 == 0
    file.remove()
    assert not file.path.exists()
