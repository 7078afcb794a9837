"""Drops what has been kept for long enough, a bit at a time, so that nobody waits for a long transaction."""

import logging
import time
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone

from inference.models import RequestRecord
from monitoring.models import HostMinute, HostSample, LogEntry, QueueMinute, RequestBucket

logger = logging.getLogger(__name__)

_AT_ONCE = 2000
_PAUSE_SECONDS = 0.02


def prune() -> dict[str, int]:
    """Drop what is older than the settings say; returns how many rows of each table are gone."""
    gone: dict[str, int] = {}
    for kind, column, days in (
        (HostSample, "at", settings.KEEP_SAMPLES_HOURS / 24),
        (HostMinute, "minute", settings.KEEP_METRICS_DAYS),
        (QueueMinute, "minute", settings.KEEP_METRICS_DAYS),
        (RequestBucket, "start", settings.KEEP_METRICS_DAYS),
        (RequestRecord, "created_at", settings.KEEP_RECORDS_DAYS),
        (LogEntry, "at", settings.KEEP_LOGS_DAYS),
    ):
        if days:
            gone[kind.__name__] = _drop(kind, **{f"{column}__lt": _border(kind, column, days)})
    dropped = {name: count for name, count in gone.items() if count}
    if dropped:
        logger.info("dropped what was kept for long enough", extra={"metadata": dropped})
    return gone


def _border(kind: type[models.Model], column: str, days: float) -> Any:
    """The oldest time that stays, as the column has it."""
    moment = timezone.now() - timedelta(days=days)
    if isinstance(kind._meta.get_field(column), models.DateTimeField):
        return moment
    seconds = moment.timestamp()
    return seconds / 60 if column == "minute" else seconds


def _drop(kind: type[models.Model], **which: Any) -> int:
    rows = kind._default_manager.filter(**which).order_by()
    count = 0
    while ids := list(rows.values_list("pk", flat=True)[:_AT_ONCE]):
        count += kind._default_manager.filter(pk__in=ids).delete()[0]
        time.sleep(_PAUSE_SECONDS)
    return count
