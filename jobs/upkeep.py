"""Drops jobs and files that have been kept for long enough, and uploads that never came to their end."""

import logging
import time
from datetime import datetime, timedelta

from django.db.models import Q, QuerySet
from django.utils import timezone

from jobs.models import File, FileChunk, Job, JobItem

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 2000
_PAUSE_SECONDS = 0.02
# Longer than any upload takes.
_UPLOAD = timedelta(hours=6)


def prune() -> None:
    """A bit at a time, so that nobody waits for a long transaction."""
    now = timezone.now()
    jobs = list(Job.objects.exclude(state__in=Job.UNFINISHED).filter(keep_until__lt=now).values_list("pk", flat=True))
    for job_id in jobs:
        _drop(JobItem.objects.filter(job_id=job_id))
        Job.objects.filter(pk=job_id).delete()
    files = _files_to_drop(now)
    for file_id in files:
        _drop(FileChunk.objects.filter(file_id=file_id))
        File.objects.filter(pk=file_id).delete()
    if jobs or files:
        logger.info("dropped what was kept for long enough: %d jobs, %d files", len(jobs), len(files))


def _files_to_drop(now: datetime) -> list[str]:
    is_over = Q(expires_at__lt=now) | Q(is_complete=False, created_at__lt=now - _UPLOAD)
    in_use = Job.objects.filter(state=Job.State.VALIDATING, input_file__isnull=False).values("input_file")
    return list(File.objects.filter(is_over).exclude(pk__in=in_use).values_list("pk", flat=True))


def _drop(rows: "QuerySet[JobItem] | QuerySet[FileChunk]") -> None:
    while ids := list(rows.order_by().values_list("pk", flat=True)[:_ROWS_AT_ONCE]):
        rows.model._default_manager.filter(pk__in=ids).delete()
        time.sleep(_PAUSE_SECONDS)
