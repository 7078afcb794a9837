"""The installation over time: figures of hosts, GPUs, requests and queues in aligned buckets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import msgspec
from django.conf import settings

from monitoring.columns import REQUEST_SERIES, SOURCES, Columns, per_minute, per_second, requests_by
from monitoring.gpus import Figure, GpuMinute, mean_of
from monitoring.packed_hours import HOUR

Series = list[Figure]
AnySeries = Series | list[Series | None]
_MINUTE = 60
# A rate over a bucket that has just begun says little; it is taken over a tenth of the bucket at least.
_LEAST_SHARE = 0.1
_GPUS = 5  # the column of a host
_NO_REQUESTS: Columns = [[] for _ in ("start", *REQUEST_SERIES, "tokens")]
_NO_QUEUE: Columns = [[] for _ in range(5)]
T = TypeVar("T")


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
        """Where the buckets begin. They all begin at the same times of their hours."""
        times = [(f"{second // 60:02}:{second % 60:02}Z", second) for second in range(0, HOUR, self.seconds)]
        first, end = self.first, self.end
        hours = range(first // HOUR * HOUR, end, HOUR)
        begins = [(hour, f"{datetime.fromtimestamp(hour, UTC):%Y-%m-%dT%H}:") for hour in hours]
        return [begin + time for hour, begin in begins for time, second in times if first <= hour + second < end]

    def elapsed(self) -> float:
        """How many seconds of the running bucket have passed."""
        return max(self.now - (self.end - self.seconds), _LEAST_SHARE * self.seconds)

    def of_minutes(self, minutes: Sequence[int]) -> list[int]:
        """The buckets that these Unix minutes are in."""
        first, step = self.first // _MINUTE, self.seconds // _MINUTE
        return [(minute - first) // step for minute in minutes]

    def column(self, indexes: Sequence[int], figures: Sequence[T], *, noughts: Sequence[int] = ()) -> list[T | None]:
        """A figure for each bucket: those given, else 0 in the buckets `noughts`, else None. `indexes` ascend."""
        found: list[Any] = [None] * self.count
        for index in noughts:
            found[index] = 0
        if indexes and indexes[-1] - indexes[0] + 1 == len(indexes):  # without a gap
            found[indexes[0] : indexes[-1] + 1] = figures
            return found
        for index, figure in zip(indexes, figures, strict=True):
            found[index] = figure
        return found


def figures(buckets: Buckets, model: str) -> tuple[dict[str, AnySeries], list[tuple[str, int]]]:
    """Every series of an answer, from the minutes; None where there was nothing to measure. With them, whose columns
    the GPUs' series have, as (host, id)."""
    hosts = Hosts(buckets)
    return {**model_series(buckets, model, hosts.was_up()), **hosts.series()}, hosts.gpus()


def model_series(buckets: Buckets, model: str, was_up: Sequence[int]) -> dict[str, AnySeries]:
    """The requests and the queue of a model. `was_up`: where nobody asked for anything, unless they did."""
    source = SOURCES["requests"] if buckets.seconds == _MINUTE else requests_by(buckets.seconds)
    requests = source.read(first=buckets.first, end=buckets.end, owner=model).get(model)
    queue = SOURCES["queues"].read(first=buckets.first, end=buckets.end, owner=model).get(model)
    return {**_requests(buckets, requests or _NO_REQUESTS, was_up), **_queue(buckets, queue or _NO_QUEUE)}


def idle_series(buckets: Buckets, was_up: Sequence[int]) -> dict[str, AnySeries]:
    """The same of a model that nobody asked for anything."""
    return {**_requests(buckets, _NO_REQUESTS, was_up), **_queue(buckets, _NO_QUEUE)}


class _Minute(NamedTuple):
    """What is read of a host's minute."""

    minute: int
    cpu_usage: float
    cpu_cores: int
    memory_used: int
    memory_total: int
    gpus: GpuMinute
    memory_usage: Figure


class Hosts:
    """The minutes of all hosts, by bucket. CPUs weigh by their cores, memory by its size."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self._hosts = dict(sorted(SOURCES["hosts"].read(first=buckets.first, end=buckets.end, owner=None).items()))
        self._indexes = {host: buckets.of_minutes(columns[0]) for host, columns in self._hosts.items()}
        self._gpus = {
            host: sorted({number for ids, _, _ in columns[_GPUS] for number in ids})
            for host, columns in self._hosts.items()
        }

    def was_up(self) -> list[int]:
        """The buckets in which anybody was there to measure."""
        return sorted(set(chain.from_iterable(self._indexes.values())))

    def gpus(self) -> list[tuple[str, int]]:
        return [(host, number) for host, ids in self._gpus.items() for number in ids]

    def series(self) -> dict[str, AnySeries]:
        if self._buckets.seconds == _MINUTE and len(self._hosts) == 1:
            return self._of_one_host()
        cpu: Series = []
        memory: Series = []
        utilization: list[Series | None] = []
        gpu_memory: list[Series | None] = []
        for hosts in self._by_bucket():
            minutes = list(chain.from_iterable(hosts.values()))
            cpu.append(_weighted([(row.cpu_usage * row.cpu_cores, row.cpu_cores) for row in minutes]))
            memory.append(_weighted([(100 * row.memory_used, row.memory_total) for row in minutes]))
            if not minutes:
                utilization.append(None)
                gpu_memory.append(None)
                continue
            aligned = [
                [row.gpus.aligned(ids) for row in hosts.get(host, ())] or [GpuMinute().aligned(ids)]
                for host, ids in self._gpus.items()
            ]
            utilization.append([figure for gpus in aligned for figure in _means([one.utilization for one in gpus])])
            gpu_memory.append([figure for gpus in aligned for figure in _means([one.memory for one in gpus])])
        return _host_series(utilization, gpu_memory, cpu, memory)

    def _of_one_host(self) -> dict[str, AnySeries]:
        """Minutes of the only host: there is nothing to add up."""
        ((host, (_, cpu, _, _, _, gpus, memory)),) = self._hosts.items()
        ids, indexes, column = self._gpus[host], self._indexes[host], self._buckets.column
        if any(known != ids for known, _, _ in gpus):
            gpus = [msgspec.structs.astuple(GpuMinute(*minute).aligned(ids)) for minute in gpus]
        return _host_series(
            column(indexes, [utilization for _, utilization, _ in gpus]),
            column(indexes, [gpu_memory for _, _, gpu_memory in gpus]),
            column(indexes, cpu),
            column(indexes, memory),
        )

    def _by_bucket(self) -> list[dict[str, list[_Minute]]]:
        found: list[dict[str, list[_Minute]]] = [{} for _ in range(self._buckets.count)]
        for host, columns in self._hosts.items():
            for index, *figures, gpus, memory in zip(self._indexes[host], *columns, strict=True):
                found[index].setdefault(host, []).append(_Minute._make((*figures, GpuMinute(*gpus), memory)))
        return found


def _host_series(
    utilization: list[Series | None], gpu_memory: list[Series | None], cpu: Series, memory: Series
) -> dict[str, AnySeries]:
    return {"gpu_utilization": utilization, "gpu_memory": gpu_memory, "cpu_usage": cpu, "memory_usage": memory}


def _weighted(parts: list[tuple[float, float]]) -> Figure:
    whole = sum([weight for _, weight in parts])
    return round(sum([part for part, _ in parts]) / whole, 1) if whole else None


def _means(rows: list[Series]) -> Series:
    """The mean of each column."""
    return rows[0] if len(rows) == 1 else [mean_of(column) for column in zip(*rows, strict=True)]


def _requests(buckets: Buckets, found: Columns, was_up: Sequence[int]) -> Mapping[str, AnySeries]:
    starts, *columns, tokens = found
    indexes = [(start - buckets.first) // buckets.seconds for start in starts]
    series = dict(zip(REQUEST_SERIES, columns, strict=True))
    if indexes and indexes[-1] == buckets.count - 1:  # the running one has not had all of its time yet
        elapsed = buckets.elapsed()
        series["request_rate"][-1] = per_minute(series["requests"][-1], elapsed)
        series["tokens_per_second"][-1] = per_second(tokens[-1], elapsed)
    counts = ("requests", "request_rate", "tokens_per_second")
    return {
        name: buckets.column(indexes, column, noughts=was_up if name in counts else ())
        for name, column in series.items()
    }


def _queue(buckets: Buckets, found: Columns) -> Mapping[str, AnySeries]:
    minutes, *sums, depth = found
    indexes = buckets.of_minutes(minutes)
    if buckets.seconds == _MINUTE:
        return {"queue_depth": buckets.column(indexes, depth), "queue_depth_max": buckets.column(indexes, sums[-1])}
    readings, waiting, most = [0] * buckets.count, [0] * buckets.count, [0] * buckets.count
    for index, count, total, peak in zip(indexes, *sums, strict=True):
        readings[index] += count
        waiting[index] += total
        most[index] = max(peak, most[index])
    depths: Series = [
        round(total / count, 1) if count else None for total, count in zip(waiting, readings, strict=True)
    ]
    peaks: Series = [peak if count else None for peak, count in zip(most, readings, strict=True)]
    return {"queue_depth": depths, "queue_depth_max": peaks}
