"""The installation over time: figures of hosts, GPUs, requests and queues in aligned buckets."""

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.conf import settings

from monitoring.gpus import Figure, GpuMinute, decode_gpu_minute, mean_of
from monitoring.models import HostMinute, QueueMinute, RequestBucket
from monitoring.rollups import ALL_MODELS

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
_READ_AT_ONCE = 5000


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
        first, step = datetime.fromtimestamp(self.first, UTC).replace(tzinfo=None), timedelta(seconds=self.seconds)
        return [f"{(first + number * step).isoformat()}Z" for number in range(self.count)]

    def elapsed(self, index: int) -> float:
        """How many seconds of a bucket have passed."""
        if index < self.count - 1:
            return self.seconds
        return max(self.now - (self.end - self.seconds), _LEAST_SHARE * self.seconds)

    def column(self, indexes: Sequence[int], figures: Sequence[Figure], *, noughts: Sequence[int] = ()) -> Series:
        """A figure for each bucket: those given, else 0 in the buckets `noughts`, else None."""
        known: dict[int, Figure] = {**dict.fromkeys(noughts, 0), **dict(zip(indexes, figures, strict=True))}
        return list(map(known.get, range(self.count)))


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
    with _without_collection():
        return _metrics(Buckets.until(now, timeframe, granularity), model or ALL_MODELS)


def _metrics(buckets: Buckets, model: str) -> Metrics:
    hosts = _Hosts(buckets)
    series: dict[str, Series | list[Series | None]] = {
        **_requests(buckets, model, hosts.was_up),
        **_queue(buckets, model),
        **hosts.series(),
    }
    return Metrics(buckets.timestamps(), series, hosts.gpus())


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Tens of thousands of rows that all stay make Python look for garbage over and over, for most of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Minute(NamedTuple):
    """What is read of a HostMinute."""

    minute: int
    host: str
    cpu_usage: float
    cpu_cores: int
    memory_used: int
    memory_total: int
    gpus: str


class _Hosts:
    """The minutes of all hosts, by bucket. CPUs weigh by their cores, memory by its size."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets: list[list[tuple[_Minute, GpuMinute]]] = [[] for _ in range(buckets.count)]
        self._gpus: dict[str, set[int]] = {}
        minutes = HostMinute.objects.filter(
            minute__gte=buckets.first // _MINUTE, minute__lt=buckets.end // _MINUTE
        ).values_list(*_Minute._fields)
        first, step, known = buckets.first // _MINUTE, buckets.seconds // _MINUTE, self._gpus
        for minute in map(_Minute._make, minutes.iterator(_READ_AT_ONCE)):
            gpus = decode_gpu_minute(minute.gpus)
            known.setdefault(minute.host, set()).update(gpus.ids)
            self._buckets[(minute.minute - first) // step].append((minute, gpus))

    @property
    def was_up(self) -> list[bool]:
        """Whether anybody was there to measure, for each bucket."""
        return [bool(minutes) for minutes in self._buckets]

    def gpus(self) -> list[tuple[str, int]]:
        return [(host, number) for host in sorted(self._gpus) for number in sorted(self._gpus[host])]

    def series(self) -> dict[str, Series | list[Series | None]]:
        columns = {host: tuple(sorted(self._gpus[host])) for host in sorted(self._gpus)}
        cpu: Series = []
        memory: Series = []
        utilization: list[Series | None] = []
        gpu_memory: list[Series | None] = []
        for minutes in self._buckets:
            if len(minutes) == 1 and len(columns) == 1:  # a bucket of a minute of the only host: nothing to add up
                (row, gpus), (ids,) = minutes[0], columns.values()
                cpu.append(row.cpu_usage)
                memory.append(round(100 * row.memory_used / row.memory_total, 1) if row.memory_total else None)
                gpus = gpus.aligned(ids)
                utilization.append(gpus.utilization)
                gpu_memory.append(gpus.memory)
                continue
            cpu.append(_weighted([(row.cpu_usage * row.cpu_cores, row.cpu_cores) for row, _ in minutes]))
            memory.append(_weighted([(100 * row.memory_used, row.memory_total) for row, _ in minutes]))
            if not minutes:
                utilization.append(None)
                gpu_memory.append(None)
                continue
            aligned = [_of_host(host, minutes, ids) for host, ids in columns.items()]
            utilization.append([figure for gpus in aligned for figure in _means([one.utilization for one in gpus])])
            gpu_memory.append([figure for gpus in aligned for figure in _means([one.memory for one in gpus])])
        return {
            "gpu_utilization": utilization,
            "gpu_memory": gpu_memory,
            "cpu_usage": cpu,
            "memory_usage": memory,
        }


def _of_host(host: str, minutes: list[tuple[_Minute, GpuMinute]], ids: tuple[int, ...]) -> list[GpuMinute]:
    """A host's minutes of a bucket, with a column for each of its GPUs."""
    return [gpus.aligned(ids) for row, gpus in minutes if row.host == host] or [GpuMinute().aligned(ids)]


def _weighted(parts: list[tuple[float, float]]) -> Figure:
    whole = sum([weight for _, weight in parts])
    return round(sum([part for part, _ in parts]) / whole, 1) if whole else None


def _means(rows: list[Series]) -> Series:
    """The mean of each column."""
    return rows[0] if len(rows) == 1 else [mean_of(column) for column in zip(*rows, strict=True)]


def _requests(buckets: Buckets, model: str, was_up: list[bool]) -> dict[str, Series]:
    """Column by column: for ten thousand buckets, that takes half the time of row by row."""
    names = ("start", "requests", "completed", "failed", "completion_tokens", "total_time", "first_token_time")
    rows = list(
        RequestBucket.objects.filter(
            seconds=buckets.seconds, model=model, start__gte=buckets.first, start__lt=buckets.end
        ).values_list(*names, *_PERCENTILES.values())
    )
    columns = list(zip(*rows, strict=True)) or [()] * (len(names) + len(_PERCENTILES))
    starts, requests, completed, failed, tokens, total_time, first_token_time, *percentiles = columns
    indexes = [(start - buckets.first) // buckets.seconds for start in starts]
    elapsed = [buckets.elapsed(index) for index in indexes]
    quiet = [index for index, up in enumerate(was_up) if up]  # where nobody asked for anything, unless they did
    return {
        "requests": buckets.column(indexes, requests, noughts=quiet),
        "request_rate": buckets.column(indexes, _ratios(requests, elapsed, 2, times=60), noughts=quiet),
        "error_rate": buckets.column(indexes, _ratios(failed, requests, 4)),
        "response_time": buckets.column(indexes, _ratios(total_time, completed, 4)),
        "time_to_first_token": buckets.column(indexes, _ratios(first_token_time, completed, 4)),
        "tokens_per_second": buckets.column(indexes, _ratios(tokens, elapsed, 2), noughts=quiet),
        **{name: buckets.column(indexes, column) for name, column in zip(_PERCENTILES, percentiles, strict=True)},
    }


def _ratios(parts: Sequence[float], wholes: Sequence[float], digits: int, *, times: float = 1) -> Series:
    """None where there is nothing to divide by."""
    return [round(times * part / whole, digits) if whole else None for part, whole in zip(parts, wholes, strict=True)]


def _queue(buckets: Buckets, model: str) -> dict[str, Series]:
    readings, waiting, most = [0] * buckets.count, [0] * buckets.count, [0] * buckets.count
    rows = QueueMinute.objects.filter(
        model=model, minute__gte=buckets.first // _MINUTE, minute__lt=buckets.end // _MINUTE
    ).values_list("minute", "readings", "waiting", "most")
    for minute, count, total, peak in rows.iterator(_READ_AT_ONCE):
        index = (minute * _MINUTE - buckets.first) // buckets.seconds
        readings[index] += count
        waiting[index] += total
        most[index] = max(peak, most[index])
    return {
        "queue_depth": [
            round(total / count, 1) if count else None for total, count in zip(waiting, readings, strict=True)
        ],
        "queue_depth_max": [peak if count else None for peak, count in zip(most, readings, strict=True)],
    }
