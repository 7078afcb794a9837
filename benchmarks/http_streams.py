"""Streams over HTTP: ours, `transformers serve --continuous-batching`, llama.cpp's server, and the engine alone."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import MODELS_DIR, Contestant
from benchmarks.report import Report, Row, median
from benchmarks.workload import NEW_TOKENS, PARALLEL, story
from llama_gpu_site.supervisor.instance import free_port
from models_mgmt.demo import ensure_demo_model
from tests.running_server import running_server

START_SECONDS = 180


@dataclass(frozen=True)
class Target:
    """A server under load. `body` makes a streaming request's body of a question."""

    name: str
    port: int
    path: str
    model: str
    key: str = ""

    @property
    def mark(self) -> bytes:
        """What stands before each piece of text."""
        return b'"token":' if self.path.startswith("/api/") else b'"content":'

    def body(self, text: str) -> dict[str, Any]:
        if self.path.startswith("/api/"):
            return {"text": text, "max_tokens": NEW_TOKENS, "temperature": 0}
        turns = [{"role": "user", "content": text}]
        return {"model": self.model, "messages": turns, "max_tokens": NEW_TOKENS, "temperature": 0, "stream": True}


class _Stream(asyncio.Protocol):
    """One streamed request. Counts the pieces of text as they come, cheaply, since the client shares the cores."""

    def __init__(self, target: Target, index: int, salt: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pieces = 0
        self.first = 0.0
        self._began = time.perf_counter()
        self._target = target
        self._rest = b""
        data = json.dumps(target.body(story(index, salt))).encode()
        head = (
            f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {target.key}\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        self._request = head.encode() + data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self._rest and b" 200 " not in data[:20] and not self.pieces:
            raise SystemExit(f"{self._target.name} answered {data[:500]!r}")
        whole, end, self._rest = (self._rest + data).rpartition(b"\n")
        if not end:
            return
        mark = self._target.mark
        empty = sum(whole.count(mark + nothing) for nothing in (b'""', b' ""', b"null"))
        found = whole.count(mark) - empty
        if found and not self.pieces:
            self.first = time.perf_counter() - self._began
        self.pieces += found
        self._rest = self._rest or b" "

    def connection_lost(self, _error: Exception | None) -> None:
        self.done.set_result(None)


async def _stream(target: Target, index: int, salt: int) -> tuple[int, float]:
    """How many pieces of text came, and the seconds to the first of them."""
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: _Stream(target, index, salt), "127.0.0.1", target.port)
    await stream.done
    return stream.pieces, stream.first


async def _load(target: Target, parallel: int, salt: int) -> tuple[float, float]:
    """Tokens per second of so many streams at once, and their mean time to first token."""
    began = time.perf_counter()
    results = await asyncio.gather(*(_stream(target, index, salt) for index in range(parallel)))
    took = time.perf_counter() - began
    return sum(pieces for pieces, _ in results) / took, sum(first for _, first in results) / parallel


@contextmanager
def _process(command: list[str], port: int, ready_path: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{ready_path}", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{command[0]} did not start") from None
                time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _ours() -> Iterator[Target]:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), LLAMA_GPU_MODELS_DIR=str(MODELS_DIR)) as server,
    ):
        port = int(server.url.rsplit(":", 1)[1])
        yield Target("LLaMA GPU", port, "/api/v1/stream_infer", "", server.api_key)


@contextmanager
def _transformers_serve() -> Iterator[Target]:
    port = free_port()
    folder = str(ensure_demo_model(models_dir=MODELS_DIR, say=lambda _text: None))
    program = str(Path(sys.executable).with_name("transformers"))
    options = ["--continuous-batching", "--device", "cpu", "--attn-implementation", "sdpa"]
    command = [program, "serve", folder, *options, "--port", str(port), "--host", "127.0.0.1"]
    with _process(command, port, "/health"):
        yield Target("transformers serve", port, "/v1/chat/completions", folder)


@contextmanager
def _llama_cpp() -> Iterator[Target]:
    port = free_port()
    load = f"from benchmarks.contenders import llama_cpp_server; server = llama_cpp_server({port})"
    script = f"import time; {load}; time.sleep(3600)"
    with _process([sys.executable, "-c", script], port, "/health"):
        yield Target("llama.cpp server", port, "/v1/chat/completions", "demo")


def streams(report: Report, rounds: int) -> None:
    """All servers stand at the same time and are loaded in turn within each round."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with _ours() as ours, _llama_cpp() as llama, _transformers_serve() as serve:
        engine = Contestant("engine:int4")
        targets = (ours, llama, serve)
        for target in targets:
            asyncio.run(_load(target, 2, 0))
        engine.ask("throughput", 2, 0)
        for turn in range(1, rounds + 1):
            for parallel in PARALLEL:
                salt = 100 * turn + parallel
                found.setdefault(("engine alone", parallel), []).append((engine.ask("throughput", parallel, salt), 0.0))
                for target in targets:
                    found.setdefault((target.name, parallel), []).append(asyncio.run(_load(target, parallel, salt)))
        engine.close()
    speed = {key: median(rate for rate, _ in values) for key, values in found.items()}
    first = {key: median(wait for _, wait in values) for key, values in found.items()}
    rows: list[Row] = [
        {"benchmark": "http", "contender": name, "parallel": n, "tokens_per_second": round(speed[name, n], 1)}
        | ({"first_token": round(first[name, n], 4)} if first[name, n] else {})
        for name, n in speed
    ]
    names = ("engine alone", *(target.name for target in targets))
    cells = [[name, *(_cell(speed[name, n], first[name, n]) for n in PARALLEL)] for name in names]
    for name in names:
        if name != ours.name:
            ratios = [f"**{speed[ours.name, n] / speed[name, n]:.2f}×**" for n in PARALLEL]
            cells.append([f"{ours.name} / {name}", *ratios])
    columns = ["output tokens/s (mean time to first token), streams:", *map(str, PARALLEL)]
    report.add(f"Streams over HTTP (median of {rounds})", columns, cells, rows)


def _cell(speed: float, first: float) -> str:
    return f"{speed:.0f}" + (f" ({first * 1000:.0f} ms)" if first else "")
