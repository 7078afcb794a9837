"""What can be done with jobs: submit, cancel, and end them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from accounts.caller import Caller
from accounts.models import User
from common import metric_catalogue
from common.errors import Conflict, InvalidInput, NotFound, RateLimitExceeded
from jobs import news
from jobs.deliveries import announce_end
from jobs.files import owner_of
from jobs.ids import new_id
from jobs.models import File, Job, JobItem
from jobs.output_files import make_output_files
from jobs.webhook_addresses import check_url

MAX_CUSTOM_ID_LENGTH = 512
_RETRY_AFTER_SECONDS = 60


def submit(
    *,
    caller: Caller,
    kind: str,
    model: str,
    defaults: dict[str, Any] | None = None,
    items: Sequence[tuple[str, dict[str, Any]]] = (),
    input_file: File | None = None,
    is_openai_batch: bool = False,
    name: str = "",
    metadata: dict[str, Any] | None = None,
    webhook_url: str = "",
    keep_seconds: int | None = None,
) -> Job:
    """Keep a job whose items are given, with their ids, or are lines of a file. It goes on by itself from here.

    Raises InvalidInput, and RateLimitExceeded where the caller has too many jobs that have not ended.
    """
    owner_id = owner_of(caller)
    if webhook_url:
        check_url(webhook_url)
    now = timezone.now()
    lifetime = timedelta(days=settings.KEEP_JOBS_DAYS) if keep_seconds is None else timedelta(seconds=keep_seconds)
    job = Job(
        id=new_id("batch_" if is_openai_batch else "job_"),
        owner_id=owner_id,
        key_id=caller.key_id,
        key_prefix=caller.key_prefix,
        kind=kind,
        is_openai_batch=is_openai_batch,
        state=Job.State.QUEUED if input_file is None else Job.State.VALIDATING,
        name=name,
        model=model,
        defaults=defaults or {},
        metadata=metadata or {},
        input_file=input_file,
        total=len(items),
        webhook_url=webhook_url,
        created_at=now,
        expires_at=now + timedelta(hours=settings.JOB_HOURS),
        keep_until=now + timedelta(hours=settings.JOB_HOURS) + lifetime if lifetime else None,
    )
    with transaction.atomic():
        User.objects.select_for_update().get(pk=owner_id)  # or two submissions at once would both be the last one
        _check_room(caller, owner_id)
        job.save(force_insert=True)
        JobItem.objects.bulk_create(
            [
                JobItem(job=job, index=index, custom_id=custom_id, body=body)
                for index, (custom_id, body) in enumerate(items)
            ]
        )
        transaction.on_commit(lambda: news.tell(job))
    metric_catalogue.JOBS_SUBMITTED.add(kind)
    return job


def cancel(job: Job) -> Job:
    """End a job now. What of it runs is stopped within a second; what has ended keeps its results.

    Raises Conflict for one that has ended otherwise.
    """
    if not end(job, Job.State.CANCELLED):
        job.refresh_from_db()
        if job.state != Job.State.CANCELLED:
            raise Conflict("The job has ended already.", details={"state": job.state})
    return job


def end(job: Job, state: Job.State, *, error: dict[str, Any] | None = None) -> bool:
    """End a job that has not ended, and with it the items that have not; False for one that has.

    Whatever still runs for it has no place to put its result any more.
    """
    with transaction.atomic():
        now = timezone.now()
        unfinished = Job.objects.filter(pk=job.pk, state__in=Job.UNFINISHED)
        if not unfinished.update(
            state=state, error=error, ended_at=now, waits_for="", waits_until=None, keep_until=_keep_until(job, now)
        ):
            return False
        left = JobItem.objects.filter(job=job, state__in=JobItem.UNFINISHED)
        if count := left.update(state=JobItem.State.CANCELLED, ended_at=now, run=""):
            Job.objects.filter(pk=job.pk).update(cancelled=F("cancelled") + count)
        job.refresh_from_db()
        make_output_files(job)
        announce_end(job)
        transaction.on_commit(lambda: news.tell(job))
    metric_catalogue.JOBS_ENDED.add(job.kind, job.state)
    return True


def forget(job: Job) -> None:
    """Delete a job with all its answers, now; one that has not ended is cancelled first."""
    end(job, Job.State.CANCELLED)
    job.delete()


def input_file_of(caller: Caller, file_id: str, *, field: str = "input_file_id") -> File:
    """A file of the caller's that can be the input of a job. Raises NotFound and InvalidInput."""
    file = File.objects.filter(pk=file_id, owner_id=caller.user_id, is_complete=True).first()
    if file is None:
        raise NotFound("There is no such file.", details={"field": field})
    if file.purpose != File.Purpose.BATCH:
        raise InvalidInput("The file holds answers; send one with prompts.", field=field)
    return file


def _keep_until(job: Job, now: Any) -> Any:
    """As long after its end as it was to be kept after its last moment."""
    return None if job.keep_until is None else now + (job.keep_until - job.expires_at)


def _check_room(caller: Caller, owner_id: int) -> None:
    running = Job.objects.filter(owner_id=owner_id, key_id=caller.key_id, state__in=Job.UNFINISHED).count()
    if running >= settings.MAX_JOBS:
        raise RateLimitExceeded(
            "You have too many jobs that have not ended.",
            details={"max_jobs": settings.MAX_JOBS},
            retry_after=_RETRY_AFTER_SECONDS,
        )
