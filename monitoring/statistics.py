"""The installation over time: figures of hosts, GPUs, requests and queues in aligned buckets."""

import time
from dataclasses import dataclass

import msgspec
from django.conf import settings

from monitoring.models import HostMinute, QueueMinute, RequestBucket
from monitoring.rollups import ALL_MODELS

Figure = float | None
Series = list[Figure]
_MINUTE = 60
# A rate over a bucket that has just begun says little; it is taken over a tenth of the bucket at least.
_LEAST_SHARE = 0.1
_PERCENTILES = {
    "response_time_p50": "latency_p50",
    "response_time_p95": "latency_p95",
    "response_time_p99": "latency_p99",
    "time_to_first_token_p50": "first_token_p50",
    "time_to_first_token_p95": "first_token_p95",
    "time_to_first_token_p99": "first_token_p99",
}
_gpus_decoder = msgspec.json.Decoder(list[tuple[int, Figure, Figure]])


@dataclass(frozen=True, slots=True)
class Buckets:
    """`count` spans of `seconds` each, the first of which begins at `first`; the last one is the running one."""

    first: int
    seconds: int
    count: int
    now: float

    @classmethod
    def until(cls, now: float, timeframe: str, granularity: str) -> "Buckets":
        seconds = settings.METRICS_GRANULARITIES[granularity]
        count = max(1, settings.METRICS_TIMEFRAMES[timeframe] // seconds)
        return cls(int(now) // seconds * seconds - (count - 1) * seconds, seconds, count, now)

    @property
    def end(self) -> int:
        return self.first + self.count * self.seconds

    def timestamps(self) -> list[str]:
        starts = range(self.first, self.end, self.seconds)
        return [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start)) for start in starts]

    def elapsed(self, index: int) -> float:
        """How many seconds of a bucket have passed."""
        if index < self.count - 1:
            return self.seconds
        return max(self.now - (self.end - self.seconds), _LEAST_SHARE * self.seconds)

    def empty(self) -> Series:
        return [None] * self.count


@dataclass(frozen=True, slots=True)
class Metrics:
    """Every series is as long as `timestamps`; None where there was nothing to measure.

    `gpus` names the columns of the GPUs' series, as (host, id).
    """

    timestamps: list[str]
    series: dict[str, Series | list[Series | None]]
    gpus: list[tuple[str, int]]


def metrics(*, timeframe: str, granularity: str, model: str | None, now: float) -> Metrics:
    """The last `timeframe` in steps of `granularity`; with `model`, the requests and the queue of that one alone."""
    buckets = Buckets.until(now, timeframe, granularity)
    hosts = _Hosts(buckets)
    series: dict[str, Series | list[Series | None]] = {
        **_requests(buckets, model or ALL_MODELS, hosts),
        **_queue(buckets, model or ALL_MODELS),
        **hosts.series(),
    }
    return Metrics(buckets.timestamps(), series, hosts.gpus())


class _Mean:
    """A figure's mean in each bucket."""

    __slots__ = ("counts", "sums")

    def __init__(self, size: int) -> None:
        self.sums = [0.0] * size
        self.counts = [0.0] * size

    def add(self, index: int, figure: Figure, weight: float = 1.0) -> None:
        if figure is not None:
            self.sums[index] += figure * weight
            self.counts[index] += weight

    def values(self) -> Series:
        return [round(total / count, 1) if count else None for total, count in zip(self.sums, self.counts, strict=True)]


class _Hosts:
    """The minutes of all hosts, added up: CPUs weigh by their cores, memory by its size."""

    def __init__(self, buckets: Buckets) -> None:
        self._size = buckets.count
        self._cpu, self._memory = _Mean(self._size), _Mean(self._size)
        self._gpus: dict[tuple[str, int], tuple[_Mean, _Mean]] = {}
        self._read(buckets)

    def was_up(self, index: int) -> bool:
        """Whether anybody was there to measure in that bucket."""
        return self._cpu.counts[index] > 0

    def gpus(self) -> list[tuple[str, int]]:
        return sorted(self._gpus)

    def series(self) -> dict[str, Series | list[Series | None]]:
        means = [self._gpus[gpu] for gpu in self.gpus()]
        return {
            "gpu_utilization": self._columns([utilization for utilization, _ in means]),
            "gpu_memory": self._columns([memory for _, memory in means]),
            "cpu_usage": self._cpu.values(),
            "memory_usage": self._memory.values(),
        }

    def _read(self, buckets: Buckets) -> None:
        minutes = HostMinute.objects.filter(
            minute__gte=buckets.first // _MINUTE, minute__lt=buckets.end // _MINUTE
        ).values_list("minute", "host", "cpu_usage", "cpu_cores", "memory_used", "memory_total", "gpus")
        first, step, decode = buckets.first // _MINUTE, buckets.seconds // _MINUTE, _gpus_decoder.decode
        for minute, host, cpu, cores, used, total, gpus in minutes:
            index = (minute - first) // step
            self._cpu.add(index, cpu, cores)
            self._memory.add(index, 100 * used / total if total else None, total)
            for number, utilization, memory in decode(gpus):
                means = self._gpus.get((host, number))
                if means is None:
                    means = self._gpus[host, number] = _Mean(self._size), _Mean(self._size)
                means[0].add(index, utilization)
                means[1].add(index, memory)

    def _columns(self, means: list[_Mean]) -> list[Series | None]:
        """A list for each bucket, with the figure of each GPU."""
        if not means:
            return [[] if self.was_up(index) else None for index in range(self._size)]
        rows = zip(*(mean.values() for mean in means), strict=True)
        return [list(row) if self.was_up(index) else None for index, row in enumerate(rows)]


def _requests(buckets: Buckets, model: str, hosts: _Hosts) -> dict[str, Series]:
    names = ("requests", "request_rate", "error_rate", "tokens_per_second", "response_time", "time_to_first_token")
    series = {name: buckets.empty() for name in (*names, *_PERCENTILES)}
    for index in range(buckets.count):
        if hosts.was_up(index):  # nobody asked for anything
            series["requests"][index] = series["request_rate"][index] = series["tokens_per_second"][index] = 0
    rows = RequestBucket.objects.filter(
        seconds=buckets.seconds, model=model, start__gte=buckets.first, start__lt=buckets.end
    ).values_list(
        "start",
        "requests",
        "completed",
        "failed",
        "completion_tokens",
        "total_time",
        "first_token_time",
        *_PERCENTILES.values(),
    )
    percentiles = [series[name] for name in _PERCENTILES]
    for start, requests, completed, failed, tokens, total_time, first_token_time, *spread in rows:
        index = (start - buckets.first) // buckets.seconds
        elapsed = buckets.elapsed(index)
        series["requests"][index] = requests
        series["request_rate"][index] = round(60 * requests / elapsed, 2)
        series["error_rate"][index] = round(failed / requests, 4)
        series["tokens_per_second"][index] = round(tokens / elapsed, 2)
        if completed:
            series["response_time"][index] = round(total_time / completed, 4)
            series["time_to_first_token"][index] = round(first_token_time / completed, 4)
        for column, figure in zip(percentiles, spread, strict=True):
            column[index] = figure
    return series


def _queue(buckets: Buckets, model: str) -> dict[str, Series]:
    mean, most = _Mean(buckets.count), buckets.empty()
    rows = QueueMinute.objects.filter(
        model=model, minute__gte=buckets.first // _MINUTE, minute__lt=buckets.end // _MINUTE
    ).values_list("minute", "readings", "waiting", "most")
    for minute, readings, waiting, peak in rows:
        index = (minute * _MINUTE - buckets.first) // buckets.seconds
        mean.add(index, waiting / readings, readings)
        most[index] = max(peak, most[index] or 0)
    return {"queue_depth": mean.values(), "queue_depth_max": most}
