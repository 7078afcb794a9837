"""What one running server has for itself: its data folder, its port, and a note on where it is."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_gpu_site.supervisor.console import Console
from llama_gpu_site.supervisor.failure import StartError

NEEDED_BYTES = 100 * 1024**2
# How long the processes of a supervisor that was killed may take to end (see `leash`), with some room.
LEFTOVERS_SECONDS = 10.0


def check_data_dir(path: Path) -> None:
    """Raises StartError for a folder that can't be written or a disk that is full."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-test-{os.getpid()}"
        try:
            with probe.open("wb") as file:
                file.write(b"\0" * 65536)
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
        free = shutil.disk_usage(path).free
    except OSError as error:
        raise StartError(
            f"The data folder {path} can't be written ({error.strerror or error}); mend that, or set "
            "LLAMA_GPU_DATA_DIR to a folder that can."
        ) from error
    if free < NEEDED_BYTES:
        raise StartError(
            f"The data folder {path} has {free / 1024**2:.0f} MB free and the server needs "
            f"{NEEDED_BYTES / 1024**2:.0f} MB; free some space, or set LLAMA_GPU_DATA_DIR to a folder that has it."
        )


class DataDirLock:
    """Only one server works on a data folder. The lock goes with the last process that holds its descriptor."""

    def __init__(self, data_dir: Path, *, console: Console) -> None:
        """Raises StartError when another server has the folder."""
        self._file = (data_dir / "up.lock").open("a+")
        try:
            self._acquire(data_dir, console)
        except BaseException:
            self._file.close()
            raise
        self._file.seek(0)
        self._file.truncate()
        self._file.write(str(os.getpid()))
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    def _acquire(self, data_dir: Path, console: Console) -> None:
        if self._try():
            return
        pid = self._owner()
        if pid is not None and _is_running(pid):
            raise StartError(
                f"Another LLaMA GPU server (process {pid}) uses the data folder {data_dir}; stop it, or set "
                "LLAMA_GPU_DATA_DIR to another folder."
            )
        self._wait_for_leftovers(data_dir, console)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _owner(self) -> int | None:
        self._file.seek(0)
        text = self._file.read().strip()
        return int(text) if text.isdigit() else None

    def _wait_for_leftovers(self, data_dir: Path, console: Console) -> None:
        console.line("up", "waiting for the processes of the server before this one to end")
        deadline = time.monotonic() + LEFTOVERS_SECONDS
        while not self._try():
            if time.monotonic() > deadline:
                raise StartError(
                    f"Processes of another LLaMA GPU server still use the data folder {data_dir}; end them."
                )
            time.sleep(0.1)


def reserve_port(host: str, port: int) -> socket.socket:
    """A socket bound to the address; the web processes listen on it. Raises StartError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise StartError(
            f"LLAMA_GPU_HOST is {host!r}, which is no address of this machine ({error.strerror})."
        ) from None
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise StartError(
            f"Port {port} on {host} can't be used ({error.strerror}); stop the program that has it, or set "
            f"LLAMA_GPU_PORT to another port, for example: LLAMA_GPU_PORT={port + 1 if port < 65535 else 5000} make run"
        ) from None
    return sock


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class InstanceFile:
    """`instance.json` in the data folder: where the running server is, for tools and tests; for its owner only."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "instance.json"

    def write(self, content: Mapping[str, Any]) -> None:
        fresh = self.path.with_suffix(".new")
        with contextlib.suppress(OSError):
            fresh.touch(mode=0o600)
            fresh.write_text(json.dumps(content, indent=2))
            fresh.replace(self.path)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
