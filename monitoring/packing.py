"""Packs the figures of finished hours: one row for each host, each model's requests and each model's queue.

A week by the minute is 30,000 rows, and reading them took most of an answer's time. The minutes stay what counts: they
may still change (a late record, figures counted anew), and whoever changes them calls `unpack`. A migration that comes
with other columns empties the packs.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import msgspec
from django.conf import settings
from django.db import transaction

from monitoring.columns import SOURCES, Columns, Kind
from monitoring.models import PackedFigures, PackedHour

HOUR = 3600
# By then, what a worker has measured in an hour has long been written.
SETTLE_SECONDS = 600
_AT_ONCE = 50
_decode = msgspec.msgpack.Decoder(Columns).decode


def read(kind: Kind, *, first: int, end: int, owner: str | None = None) -> dict[str, Columns]:
    """The figures from `first` until before `end` (Unix seconds), by their owner: a host or a model.

    Packed or not, the answer is the same.
    """
    source = SOURCES[kind]
    span = range(first // HOUR, -(-end // HOUR))
    packed = set(
        PackedHour.objects.filter(hour__gte=span.start, hour__lt=span.stop, packed=True).values_list("hour", flat=True)
    )
    rows = PackedFigures.objects.filter(kind=kind, hour__gte=span.start, hour__lt=span.stop).order_by("hour")
    if owner is not None:
        rows = rows.filter(owner=owner)
    parts: dict[str, dict[int, Columns]] = {}
    for hour, name, figures in rows.values_list("hour", "owner", "figures"):
        if hour in packed:
            parts.setdefault(name, {})[hour] = _decode(figures)
    for hours in _runs(hour for hour in span if hour not in packed):
        for name, columns in source.read(first=hours.start * HOUR, end=hours.stop * HOUR, owner=owner).items():
            parts.setdefault(name, {})[hours.start] = columns
    times = first // source.seconds, end // source.seconds
    return {name: _within([hours[hour] for hour in sorted(hours)], *times) for name, hours in parts.items()}


def pack(now: float) -> int:
    """Pack what is finished of the longest timeframe, drop what is older; returns how many hours were packed.

    An hour is announced by one turn and packed by a later one, so that whoever changes it meanwhile finds its row and
    waits for its lock, or has been waited for. `now`: Redis' time.
    """
    oldest = int(now - max(settings.METRICS_TIMEFRAMES.values())) // HOUR - 1  # one more, for those who read meanwhile
    hours = range(oldest, int(now - SETTLE_SECONDS) // HOUR)
    for kind in (PackedFigures, PackedHour):
        kind._default_manager.filter(hour__lt=hours.start).delete()
    known = dict(PackedHour.objects.values_list("hour", "packed"))
    todo = [hour for hour, packed in sorted(known.items()) if not packed][-_AT_ONCE:]
    for hour in todo:
        _pack(hour)
    PackedHour.objects.bulk_create(
        [PackedHour(hour=hour) for hour in hours if hour not in known], ignore_conflicts=True
    )
    return len(todo)


def unpack(moments: Iterable[float]) -> None:
    """The figures of these times (Unix seconds) are changed: to be called after that, in the same transaction."""
    # Also those that are not packed yet: whoever is about to pack one is to be waited for.
    PackedHour.objects.filter(hour__in={int(moment) // HOUR for moment in moments}).update(packed=False)


def unpack_all() -> None:
    """All figures are changed: to be called after that, in the same transaction."""
    PackedHour.objects.update(packed=False)


def _pack(hour: int) -> None:
    with transaction.atomic():
        if not list(PackedHour.objects.select_for_update().filter(hour=hour)):
            return
        PackedFigures.objects.filter(hour=hour).delete()
        PackedFigures.objects.bulk_create(
            PackedFigures(hour=hour, kind=kind, owner=owner, figures=msgspec.msgpack.encode(columns))
            for kind, source in SOURCES.items()
            for owner, columns in source.read(first=hour * HOUR, end=(hour + 1) * HOUR, owner=None).items()
        )
        PackedHour.objects.filter(hour=hour).update(packed=True)


def _within(parts: Sequence[Columns], first: int, end: int) -> Columns:
    """Parts that follow each other, as one, from the time `first` until before `end`."""
    columns = [list(chain.from_iterable(column)) for column in zip(*parts, strict=True)]
    begin, stop = (bisect.bisect_left(columns[0], time) for time in (first, end))
    return [column[begin:stop] for column in columns]


def _runs(hours: Iterable[int]) -> Iterator[range]:
    """Hours that follow each other, together."""
    run = range(0)
    for hour in hours:
        if hour != run.stop:
            if run:
                yield run
            run = range(hour, hour)
        run = range(run.start, hour + 1)
    if run:
        yield run
