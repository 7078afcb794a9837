"""The installation over time: figures of hosts, GPUs, requests and queues in aligned buckets."""

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import msgspec
from django.conf import settings

from monitoring.columns import REQUEST_SERIES, Columns, per_minute, per_second, requests_by
from monitoring.gpus import Figure, GpuMinute, mean_of
from monitoring.packing import HOUR, read
from monitoring.rollups import ALL_MODELS

Series = list[Figure]
_MINUTE = 60
# A rate over a bucket that has just begun says little; it is taken over a tenth of the bucket at least.
_LEAST_SHARE = 0.1
_GPUS = 5  # the column of a host
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
        hours = ((hour, datetime.fromtimestamp(hour, UTC)) for hour in range(self.first // HOUR * HOUR, self.end, HOUR))
        return [
            f"{moment:%Y-%m-%dT%H}:{time}"
            for hour, moment in hours
            for time, second in times
            if self.first <= hour + second < self.end
        ]

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
        **_requests(buckets, model, hosts.was_up()),
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
    """What is read of a host's minute."""

    minute: int
    cpu_usage: float
    cpu_cores: int
    memory_used: int
    memory_total: int
    gpus: GpuMinute
    memory_usage: Figure


class _Hosts:
    """The minutes of all hosts, by bucket. CPUs weigh by their cores, memory by its size."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self._hosts = dict(sorted(read("hosts", first=buckets.first, end=buckets.end).items()))
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

    def series(self) -> dict[str, Series | list[Series | None]]:
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

    def _of_one_host(self) -> dict[str, Series | list[Series | None]]:
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
) -> dict[str, Series | list[Series | None]]:
    return {"gpu_utilization": utilization, "gpu_memory": gpu_memory, "cpu_usage": cpu, "memory_usage": memory}


def _weighted(parts: list[tuple[float, float]]) -> Figure:
    whole = sum([weight for _, weight in parts])
    return round(sum([part for part, _ in parts]) / whole, 1) if whole else None


def _means(rows: list[Series]) -> Series:
    """The mean of each column."""
    return rows[0] if len(rows) == 1 else [mean_of(column) for column in zip(*rows, strict=True)]


def _requests(buckets: Buckets, model: str, was_up: Sequence[int]) -> dict[str, Series]:
    """`was_up`: where nobody asked for anything, unless they did."""
    starts, *columns, tokens = _request_columns(buckets, model)
    indexes = [(start - buckets.first) // buckets.seconds for start in starts]
    figures = dict(zip(REQUEST_SERIES, columns, strict=True))
    if indexes and indexes[-1] == buckets.count - 1:  # the running one has not had all of its time yet
        elapsed = buckets.elapsed()
        figures["request_rate"][-1] = per_minute(figures["requests"][-1], elapsed)
        figures["tokens_per_second"][-1] = per_second(tokens[-1], elapsed)
    counts = ("requests", "request_rate", "tokens_per_second")
    return {
        name: buckets.column(indexes, column, noughts=was_up if name in counts else ())
        for name, column in figures.items()
    }


def _request_columns(buckets: Buckets, model: str) -> Columns:
    """Minutes may be packed; of longer spans there are few enough."""
    if buckets.seconds == _MINUTE:
        found = read("requests", first=buckets.first, end=buckets.end, owner=model)
    else:
        found = requests_by(buckets.seconds).read(first=buckets.first, end=buckets.end, owner=model)
    return found.get(model) or [[] for _ in ("start", *REQUEST_SERIES, "tokens")]


def _queue(buckets: Buckets, model: str) -> dict[str, Series]:
    columns = read("queues", first=buckets.first, end=buckets.end, owner=model).get(model) or [[]] * 5
    minutes, *figures, depth = columns
    indexes = buckets.of_minutes(minutes)
    if buckets.seconds == _MINUTE:
        return {"queue_depth": buckets.column(indexes, depth), "queue_depth_max": buckets.column(indexes, figures[-1])}
    readings, waiting, most = [0] * buckets.count, [0] * buckets.count, [0] * buckets.count
    for index, count, total, peak in zip(indexes, *figures, strict=True):
        readings[index] += count
        waiting[index] += total
        most[index] = max(peak, most[index])
    return {
        "queue_depth": [
            round(total / count, 1) if count else None for total, count in zip(waiting, readings, strict=True)
        ],
        "queue_depth_max": [peak if count else None for peak, count in zip(most, readings, strict=True)],
    }
