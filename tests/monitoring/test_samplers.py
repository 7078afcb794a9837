"""What samplers read, keep and tell; the reading of GPUs is in test_gpus."""

from collections.abc import Iterator

import msgspec
import pytest
from asgiref.sync import sync_to_async
from pytest_django import Settings

from common.event_reader import read_events
from common.events import GpuMetrics, InferenceStats, SystemMetrics
from common.redis import sync_redis
from engine.messages import Ready
from inference.keys import model_queue
from models_mgmt.presence import DeploymentReport, announce
from monitoring.gpus import Gpu
from monitoring.hosts import HostFigures, HostReader
from monitoring.models import HostMinute, HostSample, QueueMinute
from monitoring.queues import waiting_by_model
from monitoring.samplers import Sampler, host_events, keep_queues, keep_sample
from tests.models_mgmt.test_api import report
from tests.monitoring.records import NOON

pytestmark = pytest.mark.django_db(transaction=True)
GIB = 1024**3


def figures(**changed: float) -> HostFigures:
    usual = HostFigures(
        cpu_usage=40.0,
        cpu_cores=8,
        memory_used=6 * GIB,
        memory_total=8 * GIB,
        disk_used=1,
        disk_total=4,
        network_rx=1000.0,
        network_tx=500.0,
    )
    return msgspec.structs.replace(usual, **changed)


def gpu(number: int = 0, **fields: object) -> Gpu:
    return Gpu(**{"id": number, "name": "NVIDIA RTX 4090", "memory_total": 1000, "memory_used": 500, **fields})  # type: ignore[arg-type]


@pytest.fixture
def samplers(clean_redis: str, settings: Settings) -> Iterator[list[Sampler]]:
    """Two workers' samplers on one host, and one on another."""
    settings.SAMPLE_SECONDS = 5.0
    made = [Sampler("one"), Sampler("one"), Sampler("two")]
    yield made
    for sampler in made:
        sampler._gpu_reader.close()


def read_all(samplers: list[Sampler]) -> None:
    for sampler in samplers:
        sampler.read_once()


def test_a_host_is_read_once_however_many_workers_it_has(samplers: list[Sampler]) -> None:
    read_all(samplers)
    assert sorted(HostSample.objects.values_list("host", flat=True)) == ["one", "two"]
    assert QueueMinute.objects.get(model="").readings == 1


def test_another_one_goes_on_when_the_reader_is_gone(samplers: list[Sampler]) -> None:
    read_all(samplers)
    samplers[0]._host_lease.release()
    read_all(samplers[1:2])
    assert HostSample.objects.filter(host="one").count() == 2


def test_what_it_reads_is_true(samplers: list[Sampler]) -> None:
    read_all(samplers[:1])
    sample = HostSample.objects.get()
    assert 0 <= sample.cpu_usage <= 100
    assert 0 < sample.memory_used < sample.memory_total
    assert 0 < sample.disk_used < sample.disk_total
    assert sample.minute == int(sample.at // 60)
    assert HostMinute.objects.get().memory_used == sample.memory_used


def test_a_busy_host_is_told_from_an_idle_one() -> None:
    reader = HostReader()
    assert sum(number * number for number in range(1_500_000))
    assert reader.read().cpu_usage > 10


async def test_it_tells_what_it_has_read(samplers: list[Sampler]) -> None:
    await sync_to_async(announce)(report(DeploymentReport(model_id="alpha", state="loaded", in_flight=3)))
    await sync_to_async(read_all)(samplers[:1])
    told = [recorded.event for recorded in await read_events(channels=("system_metrics", "inference_stats"))]
    system, stats = sorted(told, key=lambda event: event.name, reverse=True)
    assert isinstance(system, SystemMetrics)
    assert (system.host, system.active_requests, system.request_rate) == ("one", 3, 0.0)
    assert isinstance(stats, InferenceStats)
    assert (stats.active_requests, stats.avg_response_time, stats.queued_requests) == (3, None, 0)


def test_a_minute_is_the_mean_of_its_samples() -> None:
    keep_sample("one", NOON + 1, figures(), [gpu(utilization=80), gpu(1, utilization=None)])
    keep_sample("one", NOON + 59, figures(cpu_usage=60.0, memory_used=4 * GIB), [gpu(utilization=91), gpu(1)])
    keep_sample("one", NOON + 61, figures(cpu_usage=99.0), [])
    keep_sample("two", NOON + 2, figures(cpu_usage=1.0), [])
    first = HostMinute.objects.get(minute=NOON // 60, host="one")
    assert (first.cpu_usage, first.memory_used, first.cpu_cores) == (50.0, 5 * GIB, 8)
    assert msgspec.json.decode(first.gpus) == [[0, 1], [85.5, None], [50.0, 50.0]]
    assert HostMinute.objects.count() == 3


def test_a_lost_gpu_has_no_figures_but_its_place() -> None:
    keep_sample("one", NOON, figures(), [Gpu(id=0, status="lost"), gpu(1, utilization=7)])
    assert msgspec.json.decode(HostMinute.objects.get().gpus) == [[0, 1], [None, 7.0], [None, 50.0]]


def test_those_wait_who_have_a_place_and_are_not_run(clean_redis: str) -> None:
    ready = Ready("cpu", "Llama", 1, 1, 1, "fp32", True, 1, 1, 1, 1.0)
    workers = [report(DeploymentReport(model_id="alpha", state="loaded", ready=ready, running=2))]
    deadlines = {"a": NOON + 60, "b": NOON + 60, "c": NOON + 60, "of a crash": NOON - 1}
    sync_redis().zadd(model_queue("alpha"), deadlines)  # type: ignore[arg-type]
    assert waiting_by_model(workers, NOON) == {"": 1, "alpha": 1}
    assert waiting_by_model([], NOON) == {"": 0}


def test_queues_are_added_up_by_the_minute() -> None:
    for second, depth in ((0, 4), (5, 0), (61, 1)):
        keep_queues(NOON + second, {"": depth})
    rows = QueueMinute.objects.order_by("minute").values_list("readings", "waiting", "most")
    assert list(rows) == [(2, 4, 4), (1, 1, 1)]


def test_events_of_gpus_name_the_gpu() -> None:
    events = host_events("one", figures(), [gpu(1, utilization=76, temperature=68, power_usage=340)], 0, 0.0)
    told = events[1]
    assert isinstance(told, GpuMetrics)
    assert (told.host, told.gpu_id, told.utilization, told.memory_used, told.temperature) == ("one", 1, 76, 500, 68)
