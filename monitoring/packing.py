"""Keeps the answers of finished hours, for each granularity: of the hosts, and of each model that was not idle."""

from collections.abc import Iterator

from django.conf import settings
from django.db import transaction

from monitoring.answers import encoded
from monitoring.models import PackedFigures, PackedHour, QueueMinute, RequestBucket
from monitoring.packed_hours import HOUR
from monitoring.rollups import ALL_MODELS
from monitoring.statistics import Buckets, Hosts, idle_series, model_series

# By then, what a worker has measured in an hour has long been written.
SETTLE_SECONDS = 600
_AT_ONCE = 20


def pack(now: float) -> int:
    """Pack what is finished of the last settings.PACKED_SECONDS, drop what is older. Returns how many hours it packed.

    An hour is announced by one turn and packed by a later one, so that whoever changes it meanwhile finds its row and
    waits for its lock, or has been waited for. `now`: Redis' time.
    """
    kept = min(settings.PACKED_SECONDS, settings.KEEP_METRICS_DAYS * 24 * HOUR or settings.PACKED_SECONDS)
    oldest = int(now - kept) // HOUR - 1  # one more, for those who read meanwhile
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


def _pack(hour: int) -> None:
    with transaction.atomic():
        if not list(PackedHour.objects.select_for_update().filter(hour=hour)):
            return
        PackedFigures.objects.filter(hour=hour).delete()
        for seconds in settings.METRICS_GRANULARITIES.values():
            PackedFigures.objects.bulk_create(_packs(hour, seconds))
        PackedHour.objects.filter(hour=hour).update(packed=True)


def _packs(hour: int, seconds: int) -> Iterator[PackedFigures]:
    end = (hour + 1) * HOUR
    buckets = Buckets(hour * HOUR, seconds, HOUR // seconds, float(end))
    hosts = Hosts(buckets)
    was_up = hosts.was_up()
    yield PackedFigures(
        hour=hour,
        seconds=seconds,
        part=PackedFigures.Part.HOSTS,
        figures=encoded(hosts.series(), gpus=hosts.gpus()),
    )
    yield PackedFigures(
        hour=hour, seconds=seconds, part=PackedFigures.Part.IDLE, figures=encoded(idle_series(buckets, was_up))
    )
    for model in _busy_models(hour):
        yield PackedFigures(
            hour=hour,
            seconds=seconds,
            part=PackedFigures.Part.MODEL,
            model=model,
            figures=encoded(model_series(buckets, model, was_up)),
        )


def _busy_models(hour: int) -> list[str]:
    """Those with requests or a queue in that hour, and all of them together."""
    requests = RequestBucket.objects.filter(seconds=HOUR, start=hour * HOUR).values_list("model", flat=True)
    queues = QueueMinute.objects.filter(minute__gte=hour * 60, minute__lt=(hour + 1) * 60).values_list(
        "model", flat=True
    )
    return sorted({ALL_MODELS, *requests, *queues.distinct()})
