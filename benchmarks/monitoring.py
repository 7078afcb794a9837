"""GET /system/metrics, with a million requests and a week of 8 GPUs in the database, on SQLite and PostgreSQL."""

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Report, Row, median
from llama_gpu_site.supervisor.instance import free_port
from tests.running_server import ROOT, RunningServer, running_server

REQUESTS = 1_000_000
GPUS = 8
WEEK_MINUTES = 7 * 24 * 60
ROUNDS = 15
TARGET_MS = 200
QUERIES = ("timeframe=7d&granularity=1m", "timeframe=7d&granularity=1m&model=echo", "timeframe=7d&granularity=1h", "")


def answers(report: Report) -> None:
    """Fill a database of each kind, and ask a server on it."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows += _on("SQLite", f"sqlite:///{folder / 'filled.sqlite3'}", folder / "sqlite")
        with _postgres(folder) as url:
            if url:
                rows += _on("PostgreSQL", url, folder / "postgres")
    _tabulate(report, rows)


def _tabulate(report: Report, rows: list[Row]) -> None:
    report.add(
        f"`/system/metrics` over HTTP, in ms; {REQUESTS:,} requests, {GPUS} GPUs; target for `7d` at `1m`: {TARGET_MS}",
        ("database", "query", "median", "worst", "kilobytes"),
        [(row["database"], row["query"] or "(default)", row["ms"], row["worst_ms"], row["kilobytes"]) for row in rows],
        rows,
    )


def _on(database: str, url: str, folder: Path) -> list[Row]:
    folder.mkdir()
    filling = {**os.environ, "DATABASE_URL": url, "LLAMA_GPU_DATA_DIR": str(folder / "filling")}
    subprocess.run([sys.executable, "-m", "benchmarks.monitoring"], cwd=ROOT, env=filling, check=True)
    with running_server(folder, DATABASE_URL=url, LLAMA_GPU_DEFAULT_MODEL="echo") as server:
        return [
            {"benchmark": "metrics", "database": database, "query": query, **_ask(server, query)} for query in QUERIES
        ]


def _ask(server: RunningServer, query: str) -> Row:
    request = urllib.request.Request(  # noqa: S310  # our own server
        f"{server.url}/api/v1/system/metrics?{query}", headers=server.headers
    )
    seconds, size = [], 0
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        with urllib.request.urlopen(request) as response:  # noqa: S310  # our own server
            body = response.read()
        seconds.append(time.perf_counter() - begun)
        size = len(body)
    answer = json.loads(body)
    lengths = {len(column) for column in answer["metrics"].values()}
    expected = {"7d&granularity=1m": WEEK_MINUTES, "7d&granularity=1h": 168}
    wanted = next((count for part, count in expected.items() if part in query), 12)
    if lengths != {wanted} or sum(number or 0 for number in answer["metrics"]["requests"]) == 0:
        raise RuntimeError(f"the answer to {query!r} is not what was filled in")
    warm = seconds[1:]
    return {
        "ms": round(1000 * median(warm), 1),
        "worst_ms": round(1000 * max(warm), 1),
        "kilobytes": round(size / 1024),
    }


@contextlib.contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """The URL of a PostgreSQL server of its own; empty where there is none to start."""
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        print("PostgreSQL is not measured: initdb and pg_ctl are not on the path")
        yield ""
        return
    data, port = folder / "pg", free_port()
    data.mkdir()
    become: list[str] = []
    if os.getuid() == 0:  # it refuses to run as root
        become = ["runuser", "-u", "postgres", "--"]
        owner = pwd.getpwnam("postgres")
        os.chown(data, owner.pw_uid, owner.pw_gid)
        folder.chmod(0o755)

    def run(*command: str | Path) -> None:
        subprocess.run([*become, *command], check=True, stdout=subprocess.DEVNULL, cwd="/")

    run("initdb", "-D", data, "-U", "bench", "-A", "trust", "-N")
    options = f"-p {port} -k '' -h 127.0.0.1"
    run("pg_ctl", "-D", data, "-w", "-l", data / "log", "-o", options, "start")
    try:
        yield f"postgres://bench@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")


# ---------------------------------------------------------------- filling, in a process with that database


_SERIES = {
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n + 1 < {count}) ",
    "postgresql": "WITH s(n) AS (SELECT generate_series(0, {count} - 1)) ",
}
# Spread over the week and the models, with times that vary.
_RECORDS = """
INSERT INTO inference_requestrecord
  (request_id, item, model, kind, state, finish_reason, cancel_reason, error_code, backend, worker, prompt_tokens,
   completion_tokens, cached_tokens, queue_time, prefill_time, decode_time, total_time, auth_time, door_time,
   taken_time, prepared_time, accept_time, plugins, created_at)
{series} SELECT 'req_' || n, 0, CASE n % 4 WHEN 0 THEN 'echo' WHEN 1 THEN 'b' WHEN 2 THEN 'c' ELSE 'd' END, 'infer',
  CASE WHEN n % 97 = 0 THEN 'failed' WHEN n % 89 = 0 THEN 'cancelled' ELSE 'completed' END, 'stop', '', '', 'cuda',
  'h/cuda0',
  50 + n % 400, 20 + n % 130, 0, (n % 13) * 0.01, 0.02 + (n % 31) * 0.005, 0.3 + (n % 257) * 0.01,
  0.35 + (n % 257) * 0.01 + (n % 31) * 0.005, 0.001, 0.002, 0.003, 0.003, 0.004, '{{}}', {moment} FROM s
"""
_MOMENTS = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', {first} + n * {step}, 'unixepoch')",
    "postgresql": "to_timestamp({first} + n * {step})",
}
_SAMPLES = """
INSERT INTO monitoring_hostsample
  (host, at, minute, cpu_usage, cpu_cores, memory_used, memory_total, disk_used, disk_total, network_rx, network_tx,
   gpus)
{series} SELECT 'gpu-host', {first} + n * 5, ({first} + n * 5) / 60, 40, 64, 300000000000, 512000000000, 1, 2, 0, 0,
  '{gpus}' FROM s
"""


def fill() -> None:
    """What a week leaves, in SQL; the requests' figures over time are counted by the server's own code."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llama_gpu_site.settings")
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    from monitoring.packing import pack
    from monitoring.rollups import rebuild

    call_command("migrate", verbosity=0)
    minute = int(time.time()) // 60 - 1
    first = (minute - WEEK_MINUTES + 1) * 60
    series, moment = _SERIES[connection.vendor], _MOMENTS[connection.vendor]
    step = WEEK_MINUTES * 60 / REQUESTS
    with connection.cursor() as cursor:
        cursor.execute(
            _RECORDS.format(series=series.format(count=REQUESTS), moment=moment.format(first=first, step=step))
        )
        samples = _SAMPLES.format(series=series.format(count=WEEK_MINUTES * 12), first=first, gpus=_gpus_json())
        cursor.execute(samples)
    _fill_minutes(first // 60)
    counted, hours = rebuild(), 0
    pack(time.time())
    begun = time.perf_counter()
    while packed := pack(time.time()):
        hours += packed
    seconds = time.perf_counter() - begun
    print(f"{connection.vendor}: {counted:,} requests counted, {hours} hours kept ready in {seconds:.1f} s", flush=True)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def _gpus_json() -> str:
    import msgspec

    from monitoring.gpus import Gpu

    gpus = [
        Gpu(id=number, name="NVIDIA H100 80GB HBM3", memory_total=81559, memory_used=60000 + number, utilization=80)
        for number in range(GPUS)
    ]
    return msgspec.json.encode(gpus).decode()


def _gpu_minute(n: int) -> str:
    from monitoring.gpus import GpuMinute

    utilization = [(n * 7 + number * 13) % 1000 / 10 for number in range(GPUS)]
    memory = [(n * 3 + number * 29) % 1000 / 10 for number in range(GPUS)]
    return GpuMinute(list(range(GPUS)), list(utilization), list(memory)).encode()


def _fill_minutes(first: int) -> None:
    from monitoring.models import HostMinute, QueueMinute

    HostMinute.objects.bulk_create(
        [
            HostMinute(
                minute=first + n,
                host="gpu-host",
                cpu_usage=20 + n % 700 / 10,
                cpu_cores=64,
                memory_used=200_000_000_000 + n * 1_000_000,
                memory_total=512_000_000_000,
                gpus=_gpu_minute(n),
            )
            for n in range(WEEK_MINUTES)
        ],
        batch_size=500,
    )
    QueueMinute.objects.bulk_create(
        [
            QueueMinute(minute=first + n, model=model, readings=12, waiting=n % 50, most=n % 20)
            for n in range(WEEK_MINUTES)
            for model in ("", "echo")
        ],
        batch_size=500,
    )


if __name__ == "__main__":
    fill()
