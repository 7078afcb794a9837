import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running_server import RunningServer, running_server

NODE_CLIENT = Path(__file__).parent / "node_client"
PATIENCE = 20.0


@pytest.fixture(scope="session")
def two_webs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with two web processes on its port, and the echo runner."""
    folder = tmp_path_factory.mktemp("two_webs")
    with running_server(
        folder,
        LLAMA_GPU_DEFAULT_MODEL="echo",
        LLAMA_GPU_ECHO_DELAY="0.01",
        LLAMA_GPU_WEB_PROCESSES="2",
        LLAMA_GPU_SLOW_READER_SECONDS="2",
    ) as running:
        yield running


@pytest.fixture(scope="session")
def node() -> str:
    """Node, with the stock Socket.IO client beside the scripts of `node_client`."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        pytest.skip("node and npm, which the stock Socket.IO client needs, are not installed")
    if not (NODE_CLIENT / "node_modules" / "socket.io-client").is_dir():
        command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(command, cwd=NODE_CLIENT, check=True, timeout=300, stdout=subprocess.DEVNULL)
    return found


class Lines:
    """A program's output, line by line as it comes."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def wait(self, condition: Callable[[list[str]], Any]) -> Any:
        """What the condition gives, once it gives anything."""
        deadline = time.monotonic() + PATIENCE
        while not (found := condition(self.lines)):
            assert time.monotonic() < deadline, "".join(self.lines)
            time.sleep(0.02)
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._thread.join()


class NodeWatcher(Lines):
    """`watch.js`: the stock client, which prints what happens."""

    def __init__(self, node: str, url: str, options: dict[str, Any], *emits: tuple[str, Any]) -> None:
        super().__init__([node, "watch.js", url, json.dumps(options), json.dumps(emits)], NODE_CLIENT)

    def all(self, kind: str) -> list[Any]:
        return [data for found, data in map(json.loads, list(self.lines)) if found == kind]

    def one(self, kind: str, number: int = 1) -> Any:
        """The first, or `number`th, message of a kind."""
        return self.wait(lambda _: self.all(kind)[number - 1 : number])[0]

    def events(self, name: str) -> list[Any]:
        return [event["data"] for event in self.all("event") if event["name"] == name]

    def event(self, name: str, number: int = 1) -> Any:
        return self.wait(lambda _: self.events(name)[number - 1 : number])[0]
