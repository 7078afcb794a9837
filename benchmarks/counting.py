"""What it costs that requests are counted for Prometheus: per request, per second, and per scrape."""

import os
import tempfile
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.report import Report, Row, median
from tests.running_server import RunningServer, running_server

ROUNDS = 15
_MANY = 2000  # of what takes less time than to look at the clock
_SCRAPES = 50


def costs(report: Report) -> None:
    """CPU time of each part, against a server's Redis; and scrapes of that server."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), LLAMA_GPU_DEFAULT_MODEL="echo") as server,
    ):
        parts = {**_parts(server), "/metrics over HTTP": 1e6 * _scrape(server)}
    rows: list[Row] = [
        {"benchmark": "counting", "part": part, "microseconds": round(value, 1)} for part, value in parts.items()
    ]
    report.add(
        f"Counting for Prometheus, in microseconds of CPU (median of {ROUNDS} rounds; of /metrics all the time)",
        ("part", "microseconds"),
        [(row["part"], row["microseconds"]) for row in rows],
        rows,
    )


def _parts(server: RunningServer) -> dict[str, float]:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llama_gpu_site.settings")
    import django
    from django.conf import settings

    settings.REDIS_URL = server.redis_url
    django.setup()

    from common import metric_catalogue as counted
    from common import metrics
    from inference import request_telemetry
    from inference.models import RequestRecord

    record = RequestRecord(
        request_id="req_counted",
        model="echo",
        kind="infer",
        state="completed",
        finish_reason="stop",
        backend="cpu",
        worker="host/cpu",
        prompt_tokens=50,
        completion_tokens=64,
        door_time=0.002,
        accept_time=0.01,
        queue_time=0.01,
        prefill_time=0.1,
        decode_time=1.0,
        total_time=1.2,
        plugins={"model_adapter_v1": {"seconds": 0.0001, "calls": 2, "failures": 0}},
        created_at=datetime.now(UTC),
    )

    def in_web_process() -> None:
        counted.HTTP_REQUESTS.add("POST", "/api/v1/infer", "200")
        counted.HTTP_SECONDS.observe("/api/v1/infer", value=0.1)

    def in_worker() -> None:
        request_telemetry.count(record)

    def flush_of_a_second() -> None:
        in_web_process()
        in_worker()
        metrics.flush()

    def engine_second() -> None:
        bounds = len(counted.TOKEN_GAP_SECONDS.bounds) + 1
        counted.TOKEN_GAP_SECONDS.merge("echo", counts=[1] * bounds, total=1.0)

    found = {
        "a request, in its web process": _each(in_web_process, _MANY),
        "a request, in its worker": _each(in_worker, _MANY),
        "an engine's times between tokens, once a second": _each(engine_second, _MANY),
    }
    metrics.forget()
    return {**found, "what a process has counted, written once a second": _each(flush_of_a_second, _SCRAPES)}


def _each(work: Callable[[], None], times: int) -> float:
    """Microseconds of CPU."""
    work()
    rounds = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(times):
            work()
        rounds.append(time.process_time() - begun)
    return 1e6 * median(rounds) / times


def _scrape(server: RunningServer) -> float:
    """Seconds of a scrape."""
    request = urllib.request.Request(f"{server.url}/metrics", headers=server.headers)  # noqa: S310  # our own server
    seconds = []
    for _ in range(_SCRAPES):
        begun = time.perf_counter()
        with urllib.request.urlopen(request) as response:  # noqa: S310  # our own server
            response.read()
        seconds.append(time.perf_counter() - begun)
    return median(seconds)
