"""What Prometheus gets, read with Prometheus' own parser."""

import time
from collections.abc import Iterator

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from accounts.models import Role
from common import metric_catalogue as counted
from common import metrics
from common.redis import key, sync_redis
from models_mgmt.device_memory import DeviceMemory
from models_mgmt.presence import DeploymentReport, announce, announce_scheduler
from monitoring.gpus import Gpu
from monitoring.hosts import HostFigures
from monitoring.samplers import keep_sample
from tests.accounts.conftest import bearer, make_key, make_user
from tests.conftest import free_port
from tests.models_mgmt.test_api import report

pytestmark = pytest.mark.django_db(transaction=True)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    metrics.forget()
    yield
    metrics.forget()


@pytest.fixture(autouse=True)
def _open(settings: Settings) -> None:
    settings.METRICS_ACCESS = "open"


def samples_of(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scraped() -> Samples:
    response = await AsyncClient().get("/metrics")
    assert response.status_code == 200, response.content
    return samples_of(response.content.decode())


async def test_counters_and_histograms_are_those_of_all_processes(clean_redis: str) -> None:
    counted.REQUESTS.add("tiny", "infer", "completed", by=3)
    for seconds in (0.02, 0.2, 700.0):
        counted.FIRST_TOKEN_SECONDS.observe("tiny", value=seconds)
    metrics.flush()

    found = await scraped()
    labels = (("kind", "infer"), ("model", "tiny"), ("state", "completed"))
    assert found["llama_gpu_inference_requests_total", labels] == 3
    name = "llama_gpu_time_to_first_token_seconds"
    buckets = {le: found[f"{name}_bucket", (("le", le), ("model", "tiny"))] for le in ("0.01", "0.025", "0.25", "+Inf")}
    assert buckets == {"0.01": 0, "0.025": 1, "0.25": 2, "+Inf": 3}
    assert found[f"{name}_count", (("model", "tiny"),)] == 3
    assert found[f"{name}_sum", (("model", "tiny"),)] == pytest.approx(700.22)


async def test_the_gauges_show_what_the_workers_announce(clean_redis: str) -> None:
    item = DeploymentReport("tiny", "loaded", running=3, waiting=2, in_flight=6, kv_used=0.25)
    worker = msgspec.structs.replace(report(item), memory=DeviceMemory(total_bytes=1000, free_bytes=400))
    await sync_to_async(announce)(worker)
    for member in ("a", "b"):
        sync_redis().zadd(key("queue", item.model_id), {member: 9e12})
    sync_redis().zadd(key("queue", item.model_id), {"left by a crash": 1})

    found = await scraped()
    place = (("device", worker.device), ("host", worker.host))
    at = (*place, ("model", item.model_id))
    assert found["llama_gpu_worker_up", place] == 1
    assert found["llama_gpu_device_memory_total_bytes", place] == 1000
    assert found["llama_gpu_device_memory_free_bytes", place] == 400
    assert found["llama_gpu_model_loaded", at] == 1
    assert (found["llama_gpu_requests_running", at], found["llama_gpu_requests_waiting", at]) == (3, 2)
    assert (found["llama_gpu_requests_in_flight", at], found["llama_gpu_kv_cache_usage_ratio", at]) == (6, 0.25)
    assert found["llama_gpu_queue_requests", (("model", item.model_id),)] == 2


async def test_the_scheduler_is_up_while_it_works(clean_redis: str) -> None:
    assert (await scraped())["llama_gpu_scheduler_up", ()] == 0
    await sync_to_async(announce_scheduler)()
    assert (await scraped())["llama_gpu_scheduler_up", ()] == 1


async def test_answers_are_counted_by_route_and_never_by_path(clean_redis: str) -> None:
    client = AsyncClient()
    for path in ("/api/v1/models/a", "/api/v1/models/b", "/api/v1/nothing/of/that", "/health/live"):
        await client.get(path)
    metrics.flush()

    answered = {
        (dict(labels)["route"], dict(labels)["code"]): value
        for (name, labels), value in (await scraped()).items()
        if name == "llama_gpu_http_requests_total"
    }
    assert answered == {
        ("/api/v1/models/<str:model_id>", "401"): 2,
        ("unknown", "404"): 1,
        ("/health/live", "200"): 1,
    }


async def test_an_invented_method_makes_no_series_of_its_own(clean_redis: str) -> None:
    await AsyncClient().generic("BREW", "/health/live")
    metrics.flush()
    found = await scraped()
    assert {dict(labels)["method"] for (name, labels) in found if name == "llama_gpu_http_requests_total"} == {"OTHER"}


async def test_limits_that_are_hit_are_counted(clean_redis: str, settings: Settings) -> None:
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "models": (2, 1, 3600)}
    for _ in range(3):
        await AsyncClient().get("/api/v1/models")
    metrics.flush()
    labels = (("caller", "anonymous"), ("group", "models"))
    assert (await scraped())["llama_gpu_rate_limit_exceeded_total", labels] == 2


async def test_every_metric_is_named_even_before_anything_has_happened(clean_redis: str) -> None:
    page = (await AsyncClient().get("/metrics")).content.decode()
    names = {family.name for family in text_string_to_metric_families(page)}
    assert {"llama_gpu_inference_requests", "llama_gpu_inter_token_seconds", "llama_gpu_kv_cache_usage_ratio"} <= names


async def test_openmetrics_is_spoken_to_those_who_ask_for_it(clean_redis: str) -> None:
    counted.REQUESTS.add('odd "name"\n', "infer", "completed")
    metrics.flush()
    accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"
    response = await AsyncClient().get("/metrics", headers={"Accept": accept})
    assert response["Content-Type"].startswith("application/openmetrics-text")
    samples = [sample for family in openmetrics(response.content.decode()) for sample in family.samples]
    assert any(sample.labels.get("model") == 'odd "name"\n' for sample in samples)


@pytest.mark.parametrize(
    ("access", "anonymous", "reader", "admin"),
    [("read", 401, 200, 200), ("admin", 401, 403, 200), ("open", 200, 200, 200), ("off", 404, 404, 404)],
)
async def test_the_setting_says_who_may_read_it(
    clean_redis: str, settings: Settings, access: str, anonymous: int, reader: int, admin: int
) -> None:
    settings.METRICS_ACCESS = access
    administrator = await make_key()
    narrow = await make_key(owner=await make_user(Role.VIEWER, "reader"), permission="read")
    answers = [
        (await AsyncClient().get("/metrics", headers=headers)).status_code
        for headers in ({}, bearer(narrow), bearer(administrator))
    ]
    assert answers == [anonymous, reader, admin]


async def test_without_redis_it_is_503(clean_redis: str, settings: Settings) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    assert (await AsyncClient().get("/metrics")).status_code == 503


async def test_gpus_show_what_was_read_of_them(clean_redis: str) -> None:
    known = Gpu(
        id=0,
        name="NVIDIA H100",
        memory_total=1024,
        memory_used=512,
        utilization=89,
        temperature=72,
        power_usage=380,
        power_limit=700,
    )
    figures = HostFigures(
        cpu_usage=1, cpu_cores=2, memory_used=1, memory_total=2, disk_used=1, disk_total=2, network_rx=0, network_tx=0
    )
    await sync_to_async(keep_sample)("box", time.time(), figures, (known, Gpu(id=1, status="lost")))

    found = await scraped()
    at = (("gpu", "0"), ("host", "box"), ("name", "NVIDIA H100"))
    assert found["llama_gpu_gpu_utilization_ratio", at] == pytest.approx(0.89)
    assert found["llama_gpu_gpu_memory_used_bytes", at] == 512 * 1024**2
    assert (found["llama_gpu_gpu_temperature_celsius", at], found["llama_gpu_gpu_power_watts", at]) == (72, 380)
    gone = (("gpu", "1"), ("host", "box"), ("name", ""))
    assert (found["llama_gpu_gpu_lost", at], found["llama_gpu_gpu_lost", gone]) == (0, 1)
    assert ("llama_gpu_gpu_temperature_celsius", gone) not in found
