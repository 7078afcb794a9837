"""What a job of 10,000 prompts does to others: requests' latency without one and beside one, and the job's own speed.

    LLAMA_GPU_DEFAULT_MODEL=echo LLAMA_GPU_ECHO_DELAY=0.01 make run     # in one terminal
    python benchmarks/jobs.py --key KEY                                 # in another

The echo runner with a delay stands for a GPU: each step takes so long, however many requests share it.
"""

import argparse
import json
import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import httpx


def latencies(client: httpx.Client, seconds: float) -> list[float]:
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


def row(name: str, found: list[float]) -> dict[str, Any]:
    quantiles = statistics.quantiles(found, n=100)
    return {
        "benchmark": "jobs",
        "beside": name,
        "requests": len(found),
        "p50_ms": round(quantiles[49] * 1000, 1),
        "p99_ms": round(quantiles[98] * 1000, 1),
    }


def run(url: str, key: str, items: int, seconds: float) -> list[dict[str, Any]]:
    with httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        latencies(client, 1.0)
        rows = [row("nothing", latencies(client, seconds))]
        lines = "\n".join(json.dumps({"text": f"prompt {number}", "max_tokens": 8}) for number in range(items))
        headers = {"Content-Type": "application/x-ndjson"}
        job = client.post("/jobs", content=lines, headers=headers).raise_for_status().json()["job"]

        def standing() -> Any:
            return client.get(f"/jobs/{job['id']}", params={"limit": 0}).raise_for_status().json()["job"]

        while standing()["state"] in ("validating", "queued"):
            time.sleep(0.1)
        began, before = time.perf_counter(), standing()["progress"]["completed"]
        rows.append(row("a job", latencies(client, seconds)))
        now = standing()
        rate = (now["progress"]["completed"] - before) / (time.perf_counter() - began)
        rows[-1]["items_per_second"] = round(rate, 1)
        began, before = time.perf_counter(), now["progress"]["completed"]
        pause = threading.Event()
        while (now := standing())["ended_at"] is None and time.perf_counter() - began < seconds:
            pause.wait(0.2)
        alone = (now["progress"]["completed"] - before) / (time.perf_counter() - began)
        rows.append({"benchmark": "jobs", "beside": "a job alone", "items_per_second": round(alone, 1)})
        client.delete(f"/jobs/{job['id']}", params={"forget": "true"})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:5000")
    parser.add_argument("--key", default=os.environ.get("LLAMA_GPU_API_KEY", ""))
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, help="file to append JSON rows to")
    arguments = parser.parse_args()
    for found in run(arguments.url, arguments.key, arguments.items, arguments.seconds):
        print(json.dumps(found), flush=True)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
