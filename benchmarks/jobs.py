"""What a job of 10,000 prompts does to others: requests' latency without one and beside one, and the job's own speed.

The echo runner with a delay stands for a GPU: each step takes so long, however many requests share it.
"""

import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.report import Report, Row
from tests.running_server import running_server

ITEMS = 10_000
SECONDS = 10.0
STEP_SECONDS = 0.01


def latency(report: Report) -> None:
    """One table: requests alone, requests beside a job, the job alone."""
    settings = {"LLAMA_GPU_DEFAULT_MODEL": "echo", "LLAMA_GPU_ECHO_DELAY": str(STEP_SECONDS)}
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder), **settings) as server:
        rows = _measured(server.url, server.headers)
    report.add(
        f"A job of {ITEMS:,} prompts of 8 tokens, beside requests of 8 tokens (echo, steps of {STEP_SECONDS} s)",
        ("beside the requests", "requests", "p50, ms", "p99, ms", "the job's items/s"),
        [
            [row["beside"], *(row.get(name, "") for name in ("requests", "p50_ms", "p99_ms", "items_per_second"))]
            for row in rows
        ],
        rows,
    )


def _latencies(client: httpx.Client, seconds: float) -> list[float]:
    """Seconds of one short request after the other, for a time."""
    found: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        answer = client.post("/infer", json={"text": "one two three four", "max_tokens": 8})
        answer.raise_for_status()
        found.append(time.perf_counter() - began)
        time.sleep(0.05)
    return found


def _row(name: str, found: list[float]) -> Row:
    quantiles = statistics.quantiles(found, n=100)
    return {
        "benchmark": "jobs",
        "beside": name,
        "requests": len(found),
        "p50_ms": round(quantiles[49] * 1000, 1),
        "p99_ms": round(quantiles[98] * 1000, 1),
    }


def _measured(url: str, headers: dict[str, str]) -> list[Row]:
    with httpx.Client(base_url=f"{url}/api/v1", headers=headers, timeout=60) as client:
        _latencies(client, 1.0)
        rows = [_row("nothing", _latencies(client, SECONDS))]
        lines = "\n".join(json.dumps({"text": f"prompt {number}", "max_tokens": 8}) for number in range(ITEMS))
        kind = {"Content-Type": "application/x-ndjson"}
        job = client.post("/jobs", content=lines, headers=kind).raise_for_status().json()["job"]

        def standing() -> Any:
            return client.get(f"/jobs/{job['id']}", params={"limit": 0}).raise_for_status().json()["job"]

        while standing()["state"] in ("validating", "queued"):
            time.sleep(0.1)
        began, before = time.perf_counter(), standing()["progress"]["completed"]
        rows.append(_row("a job", _latencies(client, SECONDS)))
        now = standing()
        rate = (now["progress"]["completed"] - before) / (time.perf_counter() - began)
        rows[-1]["items_per_second"] = round(rate, 1)
        began, before = time.perf_counter(), now["progress"]["completed"]
        pause = threading.Event()
        while (now := standing())["ended_at"] is None and time.perf_counter() - began < SECONDS:
            pause.wait(0.2)
        alone = (now["progress"]["completed"] - before) / (time.perf_counter() - began)
        rows.append({"benchmark": "jobs", "beside": "a job alone", "items_per_second": round(alone, 1)})
        client.delete(f"/jobs/{job['id']}", params={"forget": "true"})
    return rows
