"""What the way from HTTP to an engine and back costs: requests/s and added latency against a running server.

    LLAMA_GPU_DEFAULT_MODEL=echo make run        # in one terminal
    python benchmarks/gateway.py --key KEY       # in another

The echo runner answers at once, so what is measured is everything but the model. Added latency is the time of a request
less the `inference_time` that the engine reports. The client speaks HTTP over bare sockets, since it shares the cores.
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from benchmarks.report import Report


class Client:
    """One kept-alive connection."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._key = key
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=1 << 20)

    def close(self) -> None:
        self._writer.close()

    async def post(self, path: str, body: dict[str, Any]) -> bytes:
        """The answer's whole body."""
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        self._writer.write(head.encode() + data)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        if "transfer-encoding: chunked" in answer:
            content = b""
            while size := int(await self._reader.readline(), 16):
                content += (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readline()
        else:
            length = int(answer.split("content-length: ")[1].split("\r\n")[0])
            content = await self._reader.readexactly(length)
        if " 200 " not in answer.split("\r\n")[0]:
            raise SystemExit(f"the server answered {answer.splitlines()[0]}: {content[:300]!r}")
        return content


async def infer(client: Client) -> tuple[float, int]:
    """One short request: its added latency in seconds, and the tokens it brought."""
    began = time.perf_counter()
    content = await client.post("/api/v1/infer", {"text": "one two three four", "max_tokens": 4})
    took = time.perf_counter() - began
    result = json.loads(content)["result"]
    return took - result["inference_time"], result["tokens_generated"]


async def stream(client: Client) -> tuple[float, int]:
    """One stream of 64 tokens."""
    began = time.perf_counter()
    content = await client.post("/api/v1/stream_infer", {"text": "one two three four", "max_tokens": 64})
    took = time.perf_counter() - began
    last = json.loads(content.rsplit(b"data: ", 1)[1])
    return took - last["inference_time"], last["tokens_generated"]


KINDS: dict[str, Callable[[Client], Any]] = {"infer": infer, "stream": stream}


async def measure(url: str, key: str, kind: str, callers: int, seconds: float) -> dict[str, Any]:
    """Requests of one kind from so many callers, for a time."""
    latencies: list[float] = []
    tokens = 0

    async def call_on(client: Client, until: float, *, counted: bool) -> None:
        nonlocal tokens
        while time.perf_counter() < until:
            latency, count = await KINDS[kind](client)
            if counted:
                latencies.append(latency)
                tokens += count

    clients = [Client(url, key) for _ in range(callers)]
    await asyncio.gather(*(client.open() for client in clients))
    warm = time.perf_counter() + min(1.0, seconds / 4)
    await asyncio.gather(*(call_on(client, warm, counted=False) for client in clients))
    began = time.perf_counter()
    await asyncio.gather(*(call_on(client, began + seconds, counted=True) for client in clients))
    took = time.perf_counter() - began
    for client in clients:
        client.close()
    quantiles = statistics.quantiles(latencies, n=100)
    return {
        "benchmark": "gateway",
        "kind": kind,
        "callers": callers,
        "requests": len(latencies),
        "requests_per_second": round(len(latencies) / took, 1),
        "tokens_per_second": round(tokens / took, 1),
        "added_latency_p50_ms": round(quantiles[49] * 1000, 2),
        "added_latency_p99_ms": round(quantiles[98] * 1000, 2),
    }


COLUMNS = {
    "kind": "kind",
    "callers": "callers",
    "requests_per_second": "requests/s",
    "tokens_per_second": "tokens/s",
    "added_latency_p50_ms": "p50, ms",
    "added_latency_p99_ms": "p99, ms",
}


def rows(
    url: str, key: str, *, kinds: Sequence[str], callers: Sequence[int], seconds: float
) -> Iterator[dict[str, Any]]:
    """One measurement after the other."""
    for kind in kinds:
        for count in callers:
            yield asyncio.run(measure(url, key, kind, count, seconds))


def report_on(url: str, key: str, report: "Report", *, seconds: float = 5.0) -> None:
    """Measure a running server with the echo model, into a report of all benchmarks."""
    found = list(rows(url, key, kinds=list(KINDS), callers=(1, 32), seconds=seconds))
    cells = [[row[name] for name in COLUMNS] for row in found]
    report.add("The gateway, with the echo runner", list(COLUMNS.values()), cells, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:5000")
    parser.add_argument("--key", default=os.environ.get("LLAMA_GPU_API_KEY", ""))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, help="file to append JSON rows to")
    arguments = parser.parse_args()
    print("".join(f"{title:>12}" for title in COLUMNS.values()))
    measured = rows(
        arguments.url, arguments.key, kinds=arguments.kinds, callers=arguments.callers, seconds=arguments.seconds
    )
    for row in measured:
        print("".join(f"{row[name]:>12}" for name in COLUMNS), flush=True)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
