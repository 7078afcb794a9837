"""The figures of hosts, requests and queues as they are read for answers: column by column, each computed once.

Ten thousand minutes by column take a fraction of the time that they take row by row.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from django.db import models

from monitoring.gpus import Figure
from monitoring.models import HostMinute, QueueMinute, RequestBucket

Kind = Literal["hosts", "requests", "queues"]
# Lists of one length. The first one is the time, in ascending order.
Columns = list[list[Any]]

_READ_AT_ONCE = 5000
_MINUTE = 60
# What a request's columns are called in an answer; the first one is the time, the last one the tokens.
REQUEST_SERIES = (
    "requests",
    "request_rate",
    "error_rate",
    "response_time",
    "time_to_first_token",
    "tokens_per_second",
    "response_time_p50",
    "response_time_p95",
    "response_time_p99",
    "time_to_first_token_p50",
    "time_to_first_token_p95",
    "time_to_first_token_p99",
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the figures of a kind lie, by owner (a host or a model). The first of `columns` is the time, in units of
    `seconds`; `finish` makes of them what is read."""

    model: type[models.Model]
    owner: str
    seconds: int
    columns: tuple[str, ...]
    finish: Callable[[Columns], Columns]
    filters: dict[str, Any] = field(default_factory=dict)

    def read(self, *, first: int, end: int, owner: str | None) -> dict[str, Columns]:
        """From `first` until before `end` (Unix seconds), by owner; with `owner`, of that one alone."""
        time = self.columns[0]
        which = {**self.filters, f"{time}__gte": first // self.seconds, f"{time}__lt": end // self.seconds}
        if owner is not None:
            which[self.owner] = owner
        rows = self.model._default_manager.filter(**which).order_by(time)
        found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for name, *figures in rows.values_list(self.owner, *self.columns).iterator(_READ_AT_ONCE):
            found[name].append(tuple(figures))
        return {name: self.finish([list(c) for c in zip(*figures, strict=True)]) for name, figures in found.items()}


def requests_by(seconds: int) -> Source:
    """Requests in spans of this length; read: the start, REQUEST_SERIES, and the tokens."""
    names = ("start", "requests", "completed", "failed", "completion_tokens", "total_time", "first_token_time")
    percentiles = tuple(f"{kind}_p{share}" for kind in ("latency", "first_token") for share in (50, 95, 99))

    def finish(columns: Columns) -> Columns:
        starts, requests, completed, failed, tokens, total_time, first_token_time, *spread = columns
        return [
            starts,
            requests,
            [per_minute(number, seconds) for number in requests],
            ratios(failed, requests, 4),
            ratios(total_time, completed, 4),
            ratios(first_token_time, completed, 4),
            [per_second(number, seconds) for number in tokens],
            *spread,
            tokens,
        ]

    return Source(RequestBucket, "model", 1, (*names, *percentiles), finish, {"seconds": seconds})


def per_minute(requests: int, seconds: float) -> float:
    return round(60 * requests / seconds, 2)


def per_second(tokens: int, seconds: float) -> float:
    return round(tokens / seconds, 2)


def ratios(parts: Sequence[float], wholes: Sequence[float], digits: int) -> list[Figure]:
    """None where there is nothing to divide by."""
    return [round(part / whole, digits) if whole else None for part, whole in zip(parts, wholes, strict=True)]


def _hosts(columns: Columns) -> Columns:
    """Minute, CPU in percent, cores, memory in use, memory, the fields of a GpuMinute, memory in percent."""
    *figures, used, total, gpus = columns
    return [*figures, used, total, list(map(msgspec.json.decode, gpus)), _percents(used, total)]


def _percents(parts: Sequence[int], wholes: Sequence[int]) -> list[Figure]:
    return [round(100 * part / whole, 1) if whole else None for part, whole in zip(parts, wholes, strict=True)]


def _queues(columns: Columns) -> Columns:
    """Minute, how many readings, their sum, the most, their mean."""
    _, readings, waiting, _ = columns
    return [*columns, ratios(waiting, readings, 1)]


SOURCES: dict[Kind, Source] = {
    "hosts": Source(
        HostMinute,
        "host",
        _MINUTE,
        ("minute", "cpu_usage", "cpu_cores", "memory_used", "memory_total", "gpus"),
        _hosts,
    ),
    "requests": requests_by(_MINUTE),
    "queues": Source(QueueMinute, "model", _MINUTE, ("minute", "readings", "waiting", "most"), _queues),
}
