"""Adds the requests' records up by spans of time, as they are written."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from django.conf import settings
from django.db import transaction

from inference.models import RequestRecord
from monitoring.distribution import Distribution
from monitoring.models import RequestBucket
from monitoring.packed_hours import unpack, unpack_all

State = RequestRecord.State
ALL_MODELS = ""
_SHARES = (0.5, 0.95, 0.99)
_COUNTS = (
    "requests",
    "completed",
    "failed",
    "cancelled",
    "prompt_tokens",
    "completion_tokens",
    "total_time",
    "first_token_time",
)
_COMPUTED = (*(f"{kind}_p{share}" for kind in ("latency", "first_token") for share in (50, 95, 99)),)
_UPDATED = (*_COUNTS, *_COMPUTED, "latencies", "first_tokens")
_KEYS = ("seconds", "model", "start")
_READ_AT_ONCE = 20_000


class Span(NamedTuple):
    """Which bucket. `model`: ALL_MODELS for all of them together."""

    seconds: int
    model: str
    start: int


class Ended(NamedTuple):
    """What is counted of a record. `at`: when it ended, in Unix seconds. Times are seconds from its arrival."""

    at: float
    model: str
    state: str
    prompt_tokens: int
    completion_tokens: int
    total_time: float
    first_token_time: float


@dataclass(slots=True)
class _Sum:
    """What is new in one bucket."""

    counts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    latencies: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)

    def add(self, ended: Ended) -> None:
        counts = self.counts
        counts["requests"] += 1
        counts[ended.state] += 1
        counts["prompt_tokens"] += ended.prompt_tokens
        counts["completion_tokens"] += ended.completion_tokens
        if ended.state == State.COMPLETED:
            counts["total_time"] += ended.total_time
            counts["first_token_time"] += ended.first_token_time
            self.latencies.append(ended.total_time)
            self.first_tokens.append(ended.first_token_time)


def add(records: Sequence[RequestRecord]) -> None:
    """Count ended requests. To be called in the transaction that writes their records, so that both stay true."""
    sums = _added_up(map(_of_record, records))
    spans = sorted(sums)  # always in this order, so that no two workers wait for each other
    rows = _locked(spans)
    if missing := [span for span in spans if span not in rows]:
        empty = [RequestBucket(**span._asdict()) for span in missing]
        RequestBucket.objects.bulk_create(empty, ignore_conflicts=True)
        rows = _locked(spans)
    for span in spans:
        _merge(rows[span], sums[span])
        rows[span].pk = None  # the only key that is to be in conflict is the span
    RequestBucket.objects.bulk_create(
        [rows[span] for span in spans], update_conflicts=True, unique_fields=_KEYS, update_fields=_UPDATED
    )
    unpack(span.start for span in spans)


def rebuild() -> int:
    """Count everything anew from the records that there are; returns how many. Spans without records stay as they are.

    For figures that were lost or never counted; no worker should be running meanwhile.
    """
    seen = 0

    def ended() -> Iterator[Ended]:
        nonlocal seen
        columns = (
            "created_at",
            "model",
            "state",
            "prompt_tokens",
            "completion_tokens",
            "total_time",
            "door_time",
            "accept_time",
            "queue_time",
            "prefill_time",
        )
        rows = RequestRecord.objects.order_by().values_list(*columns)
        for created_at, model, state, prompt, completion, total, door, *until in rows.iterator(_READ_AT_ONCE):
            seen += 1
            at = created_at.timestamp() + total
            yield Ended(at, model, state, prompt, completion, door + total, door + sum(until))

    sums = _added_up(ended())
    with transaction.atomic():
        rows = []
        for span, counted in sums.items():
            row = RequestBucket(**span._asdict())
            _merge(row, counted)
            rows.append(row)
        RequestBucket.objects.bulk_create(
            rows, batch_size=1000, update_conflicts=True, unique_fields=_KEYS, update_fields=_UPDATED
        )
        unpack_all()
    return seen


def _of_record(record: RequestRecord) -> Ended:
    return Ended(
        at=record.created_at.timestamp() + record.total_time,
        model=record.model,
        state=record.state,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        total_time=record.response_time,
        first_token_time=record.first_token_time,
    )


def _added_up(requests: Iterable[Ended]) -> dict[Span, _Sum]:
    sums: dict[Span, _Sum] = defaultdict(_Sum)
    spans = tuple(settings.METRICS_GRANULARITIES.values())
    for ended in requests:
        for seconds in spans:
            start = int(ended.at) // seconds * seconds
            sums[Span(seconds, ended.model, start)].add(ended)
            sums[Span(seconds, ALL_MODELS, start)].add(ended)
    return sums


def _locked(spans: list[Span]) -> dict[Span, RequestBucket]:
    """The rows that exist of these spans, locked in the spans' order until the transaction ends."""
    rows = RequestBucket.objects.select_for_update().filter(
        seconds__in={span.seconds for span in spans},
        model__in={span.model for span in spans},
        start__in={span.start for span in spans},
    )
    found = {Span(row.seconds, row.model, row.start): row for row in rows.order_by(*_KEYS)}
    return {span: found[span] for span in spans if span in found}


def _merge(row: RequestBucket, counted: _Sum) -> None:
    for name, number in counted.counts.items():
        setattr(row, name, getattr(row, name) + number)
    for kind, column, figures in (
        ("latency", "latencies", counted.latencies),
        ("first_token", "first_tokens", counted.first_tokens),
    ):
        if not figures:
            continue
        spread = Distribution.decode(getattr(row, column))
        spread.add(figures)
        setattr(row, column, spread.encode())
        for share, value in zip(_SHARES, spread.percentiles(_SHARES), strict=True):
            setattr(row, f"{kind}_p{round(share * 100)}", None if value is None else round(value, 4))
