"""GET /system/status, /gpu and /metrics. Who may ask is in the permission matrix; /logs is in test_logs."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.test import AsyncClient
from pytest_django import Settings

from common.errors import ModelNotFound
from models_mgmt.presence import DeploymentReport, announce, announce_scheduler
from models_mgmt.services import ensure_model
from monitoring.answers import answer
from monitoring.gpus import Gpu
from monitoring.samplers import keep_queues, keep_sample
from plugins_app.models import Plugin
from tests.accounts.conftest import bearer, make_key
from tests.models_mgmt.test_api import report
from tests.monitoring.records import NOON, record, write
from tests.monitoring.test_samplers import GIB, figures, gpu

pytestmark = pytest.mark.django_db(transaction=True)
Read = Callable[[str], Awaitable[HttpResponse]]


@pytest.fixture
async def read(clean_redis: str) -> Read:
    return partial(AsyncClient().get, headers=bearer(await make_key(permission="read")))


async def body(read: Read, address: str) -> dict[str, Any]:
    response = await read(f"/api/v1/system/{address}")
    assert response.status_code == 200, response.content
    answer: dict[str, Any] = response.json()  # type: ignore[attr-defined]
    assert answer["success"] is True
    return answer


@sync_to_async
def a_worker(**fields: Any) -> None:
    announce(report(DeploymentReport(model_id="alpha", state="loaded", in_flight=2, **fields)))


# ---------------------------------------------------------------- status


async def test_a_fresh_server_tells_what_it_is(read: Read) -> None:
    await a_worker()
    await sync_to_async(announce_scheduler)()
    answer = await body(read, "status")
    assert (answer["status"], answer["version"]) == ("healthy", "1.0.0")
    assert set(answer["services"].values()) == {"running"}
    assert {"inference_engine", "plugin_manager", "web_dashboard", "websocket_server"} <= answer["services"].keys()
    assert answer["uptime"] >= 0
    assert (answer["system"]["gpu_count"], answer["system"]["gpu_usage"], answer["system"]["gpu_memory"]) == (0, [], [])
    assert 0 < answer["system"]["memory_usage"] < 100
    counts = answer["statistics"]
    assert (counts["total_requests"], counts["error_rate"], counts["avg_response_time"]) == (0, 0.0, None)
    assert counts["active_requests"] == 2


async def test_figures_are_those_of_all_hosts_and_gpus(read: Read) -> None:
    await a_worker()
    now = time.time()
    rtx = [gpu(utilization=89), gpu(1, utilization=76, memory_used=250)]
    await sync_to_async(keep_sample)("one", now, figures(cpu_usage=10.0, cpu_cores=30), rtx)
    await sync_to_async(keep_sample)("two", now, figures(cpu_usage=50.0, cpu_cores=10, memory_used=GIB), [gpu()])
    await sync_to_async(keep_sample)("gone", now - 60, figures(cpu_usage=99.0), [gpu()])
    system = (await body(read, "status"))["system"]
    assert [host["host"] for host in system["hosts"]] == ["one", "two"]
    assert (system["cpu_usage"], system["memory_usage"], system["disk_usage"]) == (20.0, 43.8, 25.0)
    assert (system["gpu_count"], system["gpu_usage"]) == (3, [89, 76, None])
    assert system["gpu_memory"] == [50.0, 25.0, 50.0]


async def test_statistics_are_counted(read: Read) -> None:
    await a_worker()
    now = time.time()
    recent = [record(now - 20, total_time=seconds) for seconds in (0.5, 1.5)]
    await sync_to_async(write)(*recent, record(now - 20, state="failed"), record(now - 3 * 3600, state="cancelled"))
    counts = (await body(read, "status"))["statistics"]
    assert [counts[f"{name}_requests"] for name in ("total", "successful", "failed", "cancelled")] == [4, 2, 1, 1]
    assert counts["error_rate"] == 0.25
    assert counts["avg_response_time"] == 1.0
    assert counts["time_to_first_token"] == 0.3
    assert 3 / 5 <= counts["requests_per_minute"] <= 3 / 4
    assert 60 / 300 <= counts["tokens_per_second"] <= 60 / 240


async def test_without_a_worker_it_is_unhealthy(read: Read) -> None:
    answer = await body(read, "status")
    assert answer["status"] == "unhealthy"
    assert (answer["services"]["inference_engine"], answer["services"]["plugin_manager"]) == ("stopped", "stopped")


async def test_a_worker_that_is_gone_degrades_it(read: Read, settings: Settings) -> None:
    settings.WORKER_LOST_SECONDS = 0.01
    await a_worker()
    settings.WORKER_LOST_SECONDS = 3.0
    other = report()
    await sync_to_async(announce)(type(other)("worker-2", "host", "cuda0", "cuda", "device.host.cuda0", 2, 0.0))
    answer = await body(read, "status")
    assert (answer["status"], answer["services"]["inference_engine"]) == ("degraded", "degraded")


@pytest.mark.parametrize(("is_missed", "status"), [(True, "degraded"), (False, "healthy")])
async def test_a_failed_load_degrades_it_for_a_while(read: Read, is_missed: bool, status: str) -> None:
    failed = DeploymentReport(model_id="beta", state="failed", error="broken", is_missed=is_missed)
    await sync_to_async(announce)(report(DeploymentReport(model_id="alpha", state="loaded"), failed))
    await sync_to_async(announce_scheduler)()
    assert (await body(read, "status"))["status"] == status


async def test_a_lost_gpu_degrades_it(read: Read) -> None:
    await a_worker()
    await sync_to_async(keep_sample)("one", time.time(), figures(), [Gpu(id=0, status="lost")])
    assert (await body(read, "status"))["status"] == "degraded"


async def test_a_plugin_that_was_switched_off_degrades_it(read: Read) -> None:
    await a_worker()
    from django.utils import timezone

    await Plugin.objects.acreate(id="response_filter", loaded=True, circuit="open", circuit_opened_at=timezone.now())
    answer = await body(read, "status")
    assert (answer["status"], answer["services"]["plugin_manager"]) == ("degraded", "degraded")


# ---------------------------------------------------------------- GPUs


async def test_gpus_of_all_hosts_are_listed(read: Read) -> None:
    now = time.time()
    full = Gpu(
        id=0,
        name="NVIDIA RTX 4090",
        uuid="GPU-1",
        driver_version="535.104.12",
        cuda_version="12.2",
        memory_total=24576,
        memory_used=19276,
        memory_free=5300,
        utilization=89,
        temperature=72,
        power_usage=380,
        power_limit=450,
    )
    await sync_to_async(keep_sample)("two", now, figures(), [Gpu(id=0, status="lost", name="NVIDIA RTX 4090")])
    await sync_to_async(keep_sample)("one", now, figures(), [full])
    answer = await body(read, "gpu")
    assert answer["gpu_count"] == 2
    first, second = answer["gpus"]
    assert first.pop("sampled_at").endswith("Z")
    assert first == {
        "id": 0,
        "host": "one",
        "status": "ok",
        "name": "NVIDIA RTX 4090",
        "uuid": "GPU-1",
        "driver_version": "535.104.12",
        "cuda_version": "12.2",
        "memory_total": 24576,
        "memory_used": 19276,
        "memory_free": 5300,
        "utilization": 89,
        "temperature": 72,
        "power_usage": 380,
        "power_limit": 450,
    }
    assert (second["host"], second["status"], second["utilization"]) == ("two", "lost", None)


async def test_without_gpus_the_list_is_empty(read: Read) -> None:
    await sync_to_async(keep_sample)("one", time.time(), figures(), [])
    answer = await body(read, "gpu")
    assert (answer["gpu_count"], answer["gpus"]) == (0, [])


# ---------------------------------------------------------------- metrics


@dataclass(frozen=True)
class Metrics:
    timestamps: list[str]
    series: dict[str, list[Any]]
    gpus: list[tuple[str, int]]


def metrics(**query: Any) -> Metrics:
    """An answer, its series read."""
    found = answer(**query)
    return Metrics(found.timestamps, {k: msgspec.json.decode(v) for k, v in found.series.items()}, found.gpus)


def fill() -> None:
    """Two minutes before noon and one after it, on one host with two GPUs."""
    keep_sample("one", NOON - 100, figures(cpu_usage=10.0), [gpu(utilization=80), gpu(1, utilization=70)])
    keep_sample("one", NOON - 50, figures(cpu_usage=30.0), [gpu(utilization=90), gpu(1)])
    keep_sample("one", NOON + 10, figures(cpu_usage=50.0), [gpu(utilization=100)])
    write(
        record(NOON - 90, total_time=1.0),
        record(NOON - 40, total_time=3.0, model="beta"),
        record(NOON - 30, state="failed"),
        record(NOON + 20, state="cancelled", completion_tokens=5),
    )
    for second, depth in ((-50, 4), (-45, 1), (10, 7)):
        keep_queues(NOON + second, {"": depth, "beta": depth // 2})


def test_buckets_are_aligned_and_the_last_one_runs() -> None:
    fill()
    found = metrics(timeframe="1h", granularity="5m", model=None, now=NOON + 60)
    assert len(found.timestamps) == 12
    assert found.timestamps[-2:] == ["2026-01-01T11:55:00Z", "2026-01-01T12:00:00Z"]
    assert {len(column) for column in found.series.values()} == {12}
    last = {name: column[-2:] for name, column in found.series.items()}
    assert last["requests"] == [3, 1]
    assert last["request_rate"] == [0.6, 1.0]
    assert last["error_rate"] == [0.3333, 0.0]
    assert last["response_time"] == [2.0, None]
    assert last["response_time_p50"] == [pytest.approx(1.0, rel=0.011), None]
    assert last["response_time_p99"] == [pytest.approx(3.0, rel=0.011), None]
    assert last["time_to_first_token"] == [0.3, None]
    assert last["tokens_per_second"] == [0.2, 0.08]
    assert last["queue_depth"] == [2.5, 7.0]
    assert last["queue_depth_max"] == [4, 7]
    assert last["cpu_usage"] == [20.0, 50.0]
    assert last["memory_usage"] == [75.0, 75.0]
    assert last["gpu_utilization"] == [[85.0, 70.0], [100.0, None]]
    assert last["gpu_memory"] == [[50.0, 50.0], [50.0, None]]
    assert found.gpus == [("one", 0), ("one", 1)]
    assert all(column[:-2] == [None] * 10 for column in found.series.values())


def test_a_minute_without_requests_is_nought_while_somebody_measured() -> None:
    keep_sample("one", NOON, figures(), [])
    found = metrics(timeframe="1h", granularity="1m", model=None, now=NOON + 90)
    quiet = {name: column[-2] for name, column in found.series.items()}
    assert (quiet["request_rate"], quiet["requests"], quiet["tokens_per_second"]) == (0, 0, 0)
    assert (quiet["response_time"], quiet["error_rate"]) == (None, None)
    assert quiet["gpu_utilization"] == []
    assert found.series["request_rate"][-1] is None


def test_one_model_can_be_looked_at() -> None:
    fill()
    found = metrics(timeframe="1h", granularity="5m", model="beta", now=NOON + 60)
    assert found.series["requests"][-2:] == [1, 0]
    assert found.series["response_time"][-2:] == [3.0, None]
    assert found.series["queue_depth"][-2:] == [1.0, 3.0]
    assert found.series["cpu_usage"][-2] == 20.0


@pytest.mark.parametrize(
    ("timeframe", "granularity", "count"),
    [("1h", "1m", 60), ("6h", "15m", 24), ("24h", "1h", 24), ("7d", "1m", 10080), ("7d", "1h", 168), ("1h", "1h", 1)],
)
def test_a_timeframe_has_its_buckets(timeframe: str, granularity: str, count: int) -> None:
    fill()
    found = metrics(timeframe=timeframe, granularity=granularity, model=None, now=NOON + 60)
    assert {len(column) for column in found.series.values()} == {count}
    assert sum(number or 0 for number in found.series["requests"]) == (1 if count == 1 else 4)
    assert found.timestamps == sorted(set(found.timestamps))


def test_two_hosts_stand_side_by_side() -> None:
    keep_sample("two", NOON, figures(cpu_usage=0.0, cpu_cores=24), [gpu(3, utilization=5)])
    keep_sample("one", NOON, figures(cpu_usage=80.0, cpu_cores=8), [gpu(0, utilization=60)])
    found = metrics(timeframe="1h", granularity="1m", model=None, now=NOON + 30)
    assert found.gpus == [("one", 0), ("two", 3)]
    assert found.series["gpu_utilization"][-1] == [60.0, 5.0]
    assert found.series["cpu_usage"][-1] == 20.0


async def test_the_door_of_metrics(read: Read) -> None:
    await sync_to_async(ensure_model)(id="alpha", name="Alpha", source_kind="folder", is_default=True)
    await sync_to_async(write)(record(time.time()))
    answer = await body(read, "metrics")
    assert (answer["timeframe"], answer["granularity"], answer["model"], answer["gpus"]) == ("1h", "5m", None, [])
    assert {len(column) for column in answer["metrics"].values()} == {12}
    assert sum(number or 0 for number in answer["metrics"]["requests"]) == 1
    assert (await body(read, "metrics?model=default&timeframe=24h&granularity=1h"))["model"] == "alpha"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("timeframe=2h", "timeframe"),
        ("granularity=1s", "granularity"),
        ("timeframe=", "timeframe"),
        ("frame=1h", "frame"),
    ],
)
async def test_a_bad_parameter_is_named(read: Read, query: str, field: str) -> None:
    response = await read(f"/api/v1/system/metrics?{query}")
    error = response.json()["error"]  # type: ignore[attr-defined]
    assert (response.status_code, error["code"], error["details"]["field"]) == (400, "INVALID_INPUT", field)


async def test_an_unknown_model_is_404(read: Read) -> None:
    response = await read("/api/v1/system/metrics?model=nobody")
    assert (response.status_code, response.json()["error"]["code"]) == (404, ModelNotFound.code)  # type: ignore[attr-defined]


def test_every_series_is_described() -> None:
    from monitoring.system_serializers import MetricsBody

    found = metrics(timeframe="1h", granularity="1h", model=None, now=NOON)
    assert {"timestamps", *found.series} == set(MetricsBody().fields)
