"""Everything that is measured, in Prometheus' words: what all processes have counted, and what is the case now."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from common import metrics
from common.metric_catalogue import COUNTERS, HISTOGRAMS
from common.metrics import Counter, Field, Histogram
from common.redis import redis_line
from inference.keys import model_queue
from models_mgmt.presence import WorkerReport, alive_workers, scheduler_lives
from monitoring.gpus import Gpu
from monitoring.selectors import live_hosts

_WORKER = ("host", "device")
_DEPLOYMENT = ("model", "host", "device")
_GPU = ("host", "gpu", "name")
_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Now:
    """What the gauges show. `queued`: each model's requests, waiting and running."""

    counted: Mapping[Field, float]
    workers: Sequence[WorkerReport]
    queued: Mapping[str, int]
    scheduler_lives: bool
    gpus: Sequence[tuple[str, Gpu]] = ()  # with their hosts


async def exposition(accept: str) -> tuple[bytes, str]:
    """The whole page and its content type, in the format that the caller asks for. Raises redis.RedisError."""
    workers = await alive_workers()
    counted = await metrics.read()
    queued = await _queued(counted, workers)
    seconds, _ = await redis_line().execute("TIME")
    gpus = await sync_to_async(_gpus)(float(seconds))
    now = Now(counted, workers, queued, await scheduler_lives(), gpus)
    return await sync_to_async(_written)(now, accept)


def _gpus(now: float) -> list[tuple[str, Gpu]]:
    return [(host.host, gpu) for host in live_hosts(now) for gpu in host.gpus]


def _written(now: Now, accept: str) -> tuple[bytes, str]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(now))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Collector(Collector):
    def __init__(self, now: Now) -> None:
        self._now = now

    def collect(self) -> Iterable[Metric]:
        return families(self._now)


def families(now: Now) -> Iterator[Metric]:
    """Every metric; those without any sample too, so that what may be asked for is always named."""
    yield from _counted(now.counted)
    yield _gauge("llama_gpu_build_info", "This server.", ("version",), [((settings.VERSION,), 1)])
    yield _gauge("llama_gpu_scheduler_up", "Whether the scheduler does its work.", (), [((), now.scheduler_lives)])
    yield from _worker_gauges(now.workers)
    yield from _gpu_gauges(now.gpus)
    yield _gauge(
        "llama_gpu_queue_requests",
        "Requests in a model's queue: those that wait and those that run. More than the limit are refused.",
        ("model",),
        [((model,), count) for model, count in sorted(now.queued.items())],
    )
    yield _gauge("llama_gpu_queue_limit", "How many requests a model's queue takes.", (), [((), settings.MAX_QUEUE)])


# ---------------------------------------------------------------- counters and histograms


def _counted(counted: Mapping[Field, float]) -> Iterator[Metric]:
    samples: dict[str, dict[tuple[str, ...], dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for field, value in sorted(counted.items()):
        samples[field.name][field.labels][field.part] = value
    for counter in COUNTERS:
        yield _counter(counter, samples[counter.name])
    for histogram in HISTOGRAMS:
        yield _histogram(histogram, samples[histogram.name])


def _counter(counter: Counter, samples: Mapping[tuple[str, ...], Mapping[str, float]]) -> Metric:
    family = CounterMetricFamily(counter.name, counter.about, labels=counter.labels)
    for labels, parts in samples.items():
        if len(labels) == len(counter.labels):  # else another version of this server has counted it
            family.add_metric(labels, parts.get("", 0.0))
    return family


def _histogram(histogram: Histogram, samples: Mapping[tuple[str, ...], Mapping[str, float]]) -> Metric:
    family = HistogramMetricFamily(histogram.name, histogram.about, labels=histogram.labels)
    for labels, parts in samples.items():
        if len(labels) != len(histogram.labels):
            continue
        buckets, total = [], 0.0
        for number, bound in enumerate([*map(str, histogram.bounds), "+Inf"]):
            total += parts.get(str(number), 0.0)
            buckets.append((bound, total))
        family.add_metric(labels, buckets, sum_value=parts.get("sum", 0.0))
    return family


# ---------------------------------------------------------------- gauges


def _worker_gauges(workers: Sequence[WorkerReport]) -> Iterator[Metric]:
    places = [((worker.host, worker.device), worker) for worker in workers]
    yield _gauge("llama_gpu_worker_up", "Workers that announce themselves.", _WORKER, [(at, 1) for at, _ in places])
    measured = [(at, worker.memory) for at, worker in places if worker.memory is not None]
    yield _gauge(
        "llama_gpu_device_memory_total_bytes",
        "Memory of a worker's device.",
        _WORKER,
        [(at, memory.total_bytes) for at, memory in measured],
    )
    yield _gauge(
        "llama_gpu_device_memory_free_bytes",
        "What is free of it.",
        _WORKER,
        [(at, memory.free_bytes) for at, memory in measured],
    )
    yield from _deployment_gauges(workers)


def _deployment_gauges(workers: Sequence[WorkerReport]) -> Iterator[Metric]:
    held = [((item.model_id, worker.host, worker.device), item) for worker in workers for item in worker.deployments]
    loaded = [(at, item) for at, item in held if item.state == "loaded"]
    figures: Sequence[tuple[str, str, Sequence[tuple[tuple[str, ...], Any]]]] = (
        ("llama_gpu_model_loaded", "1 for a loaded model, 0 for one that is on its way or has failed.",
         [(at, item.state == "loaded") for at, item in held]),
        ("llama_gpu_model_memory_bytes", "What a model's engine took when it was loaded.",
         [(at, item.ready.memory_bytes) for at, item in loaded if item.ready]),
        ("llama_gpu_requests_running", "Requests that share the engine's steps now.",
         [(at, item.running) for at, item in loaded]),
        ("llama_gpu_requests_waiting", "Requests that wait in the engine for their turn.",
         [(at, item.waiting) for at, item in loaded]),
        ("llama_gpu_requests_in_flight", "Requests that the worker has taken and not ended.",
         [(at, item.in_flight) for at, item in loaded]),
        ("llama_gpu_kv_cache_usage_ratio", "Share of the KV cache in use, 0 to 1.",
         [(at, item.kv_used) for at, item in loaded]),
        ("llama_gpu_kv_cache_bytes", "Size of the KV cache.",
         [(at, item.ready.kv_cache_bytes) for at, item in loaded if item.ready]),
    )  # fmt: skip
    for name, about, samples in figures:
        yield _gauge(name, about, _DEPLOYMENT, samples)


def _gpu_gauges(gpus: Sequence[tuple[str, Gpu]]) -> Iterator[Metric]:
    """What a GPU doesn't tell has no sample."""
    figures: Sequence[tuple[str, str, Callable[[Gpu], float | None]]] = (
        ("llama_gpu_gpu_lost", "Whether a GPU has fallen off the bus.", lambda gpu: gpu.status == "lost"),
        ("llama_gpu_gpu_utilization_ratio", "Share of the time in which a GPU worked, 0 to 1.",
         lambda gpu: _times(gpu.utilization, 0.01)),
        ("llama_gpu_gpu_memory_total_bytes", "Memory of a GPU.", lambda gpu: _times(gpu.memory_total, _MIB)),
        ("llama_gpu_gpu_memory_used_bytes", "What is in use of it.", lambda gpu: _times(gpu.memory_used, _MIB)),
        ("llama_gpu_gpu_temperature_celsius", "Temperature of a GPU.", lambda gpu: gpu.temperature),
        ("llama_gpu_gpu_power_watts", "What a GPU draws.", lambda gpu: gpu.power_usage),
        ("llama_gpu_gpu_power_limit_watts", "What a GPU may draw.", lambda gpu: gpu.power_limit),
    )  # fmt: skip
    for name, about, read in figures:
        known = [((host, str(gpu.id), gpu.name or ""), read(gpu)) for host, gpu in gpus]
        yield _gauge(name, about, _GPU, [(labels, value) for labels, value in known if value is not None])


def _times(figure: float | None, factor: float) -> float | None:
    return None if figure is None else figure * factor


def _gauge(name: str, about: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], Any]]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for values, value in samples:
        family.add_metric(values, float(value))
    return family


async def _queued(counted: Iterable[Field], workers: Iterable[WorkerReport]) -> dict[str, int]:
    """Of the models that workers hold, and those that have been used."""
    models = {item.model_id for worker in workers for item in worker.deployments}
    models |= {field.labels[0] for field in counted if field.name == "llama_gpu_inference_requests_total"}
    line = redis_line()
    seconds, _ = await line.execute("TIME")
    return {model: await line.execute("ZCOUNT", model_queue(model), int(seconds), "+inf") for model in sorted(models)}
