"""Puts the answer of /system/metrics together: from hours whose answers are kept, and from what lies around them.

The series stay JSON on their way: to decode and encode 300,000 numbers would take longer than all the rest.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from monitoring.models import PackedFigures, PackedHour
from monitoring.packed_hours import HOUR
from monitoring.rollups import ALL_MODELS
from monitoring.statistics import Buckets, figures

GpuColumn = tuple[str, int]
# Those whose lists have a figure for each GPU.
_BY_GPU = ("gpu_utilization", "gpu_memory")


class Part(msgspec.Struct):
    """A span of an answer. `series`: JSON arrays; `gpus`: the columns of the GPUs' series, as (host, id), in order."""

    series: dict[str, msgspec.Raw]
    gpus: list[GpuColumn] = []

    def aligned(self, gpus: list[GpuColumn]) -> Mapping[str, msgspec.Raw]:
        """Its series with exactly these GPUs; those that it doesn't know have no figures."""
        if self.gpus == gpus:
            return self.series
        places = [self.gpus.index(gpu) if gpu in self.gpus else None for gpu in gpus]
        return self.series | {name: _with_columns(self.series[name], places) for name in _BY_GPU}


@dataclass(frozen=True, slots=True)
class Answer:
    """Every series is a JSON array as long as `timestamps`; null where there was nothing to measure.

    `gpus` names the columns of the GPUs' series, as (host, id).
    """

    timestamps: list[str]
    series: dict[str, msgspec.Raw]
    gpus: list[GpuColumn]


def encoded(series: Mapping[str, Any], gpus: Sequence[GpuColumn] = ()) -> str:
    """A part as it is kept."""
    return msgspec.json.encode({"series": series, "gpus": gpus}).decode()


_decode = msgspec.json.Decoder(Part).decode


def answer(*, timeframe: str, granularity: str, model: str | None, now: float) -> Answer:
    """The last `timeframe` in steps of `granularity`; with `model`, the requests and the queue of that one alone."""
    buckets = Buckets.until(now, timeframe, granularity)
    parts = list(_parts(buckets, model or ALL_MODELS))
    gpus = sorted({gpu for part in parts for gpu in part.gpus})
    aligned = [part.aligned(gpus) for part in parts]
    return Answer(buckets.timestamps(), {name: _joined([part[name] for part in aligned]) for name in aligned[0]}, gpus)


def _parts(buckets: Buckets, model: str) -> Iterable[Part]:
    """In the order of time, without a gap."""
    at = buckets.first
    for hour, part in sorted(_packed(buckets, model).items()):
        if at < hour * HOUR:
            yield _measured(buckets, model, at, hour * HOUR)
        yield part
        at = (hour + 1) * HOUR
    if at < buckets.end:
        yield _measured(buckets, model, at, buckets.end)


def _packed(buckets: Buckets, model: str) -> dict[int, Part]:
    """The hours of these buckets that are packed."""
    hours = {"hour__gte": -(-buckets.first // HOUR), "hour__lt": buckets.end // HOUR}
    packed = set(PackedHour.objects.filter(**hours, packed=True).values_list("hour", flat=True))
    rows = PackedFigures.objects.filter(**hours, seconds=buckets.seconds, model__in={model, ""})
    found: dict[int, dict[tuple[str, str], str]] = {hour: {} for hour in packed}
    for hour, part, owner, kept in rows.values_list("hour", "part", "model", "figures"):
        if hour in packed:
            found[hour][part, owner] = kept
    return {hour: _put_together(kept, model) for hour, kept in found.items() if kept}


def _put_together(kept: Mapping[tuple[str, str], str], model: str) -> Part:
    hosts = _decode(kept[PackedFigures.Part.HOSTS, ""])
    own = kept.get((PackedFigures.Part.MODEL, model)) or kept[PackedFigures.Part.IDLE, ""]
    return Part(_decode(own).series | hosts.series, hosts.gpus)


def _measured(buckets: Buckets, model: str, first: int, end: int) -> Part:
    """From `first` until before `end`, from the minutes."""
    now = buckets.now if end == buckets.end else float(end)
    series, gpus = figures(Buckets(first, buckets.seconds, (end - first) // buckets.seconds, now), model)
    return _decode(encoded(series, gpus))


def _with_columns(rows: msgspec.Raw, places: Sequence[int | None]) -> msgspec.Raw:
    """Rows of figures with other columns; null rows, of times in which nobody measured, stay so."""
    changed = [
        None if row is None else [None if place is None else row[place] for place in places]
        for row in msgspec.json.decode(rows)
    ]
    return msgspec.Raw(msgspec.json.encode(changed))


def _joined(arrays: Sequence[msgspec.Raw]) -> msgspec.Raw:
    return msgspec.Raw(b"[" + b",".join([bytes(array)[1:-1] for array in arrays]) + b"]")
