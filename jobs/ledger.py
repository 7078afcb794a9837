"""The dispatcher's book-keeping: what is taken into work, and what has become of it, each step one transaction.

Jobs' rows are locked before their items', everywhere and in the order of their ids, so that nobody waits in a circle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from common import metric_catalogue
from jobs.execution import Item, Outcome
from jobs.models import Job, JobItem
from jobs.services import end
from jobs.verdicts import pause_before

State = JobItem.State


@dataclass(frozen=True, slots=True)
class Again:
    """An item that is to be sent once more; `counts` if this try is held against it."""

    item: Item
    code: str
    counts: bool


@dataclass(slots=True)
class Turn:
    """What a dispatcher has to write down. `wants`: how many items to take of each job, and whether one of them may be
    one that has been tried before. `waits`: what jobs wait for, and until when."""

    outcomes: list[Outcome] = field(default_factory=list)
    again: list[Again] = field(default_factory=list)
    wants: dict[str, tuple[int, bool]] = field(default_factory=dict)
    waits: dict[str, tuple[str, datetime | None]] = field(default_factory=dict)

    @property
    def job_ids(self) -> set[str]:
        items = [outcome.item for outcome in self.outcomes] + [retry.item for retry in self.again]
        return {item.job_id for item in items} | self.wants.keys() | self.waits.keys()

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.again or self.wants or self.waits)


def write(turn: Turn, holder: str) -> tuple[list[Item], list[Job]]:
    """Write a turn down. Returns what was taken into work for `holder`, and the jobs whose counts have changed."""
    now = timezone.now()
    with transaction.atomic():
        locked = Job.objects.select_for_update().filter(pk__in=turn.job_ids, state__in=Job.UNFINISHED)
        jobs = {job.pk: job for job in locked.order_by("pk")}
        changed = _note_outcomes(turn.outcomes, jobs, holder, now)
        _note_again(turn.again, jobs, holder, now)
        for job_id, (reason, until) in turn.waits.items():
            if job_id in jobs:
                jobs[job_id].waits_for, jobs[job_id].waits_until = reason, until
        taken = [item for job_id, want in turn.wants.items() for item in _take(jobs.get(job_id), *want, holder, now)]
        for job in jobs.values():
            job.save(update_fields=_COLUMNS)
    for outcome in turn.outcomes:
        metric_catalogue.JOB_ITEMS.add(outcome.item.kind, "completed" if outcome.is_good else "failed")
    for retry in turn.again:
        metric_catalogue.JOB_RETRIES.add(retry.item.kind, retry.code)
    return taken, changed


_COLUMNS = [
    "state",
    "started_at",
    "completed",
    "failed",
    "prompt_tokens",
    "completion_tokens",
    "output_bytes",
    "error_bytes",
    "waits_for",
    "waits_until",
]


def _note_outcomes(outcomes: Sequence[Outcome], jobs: Mapping[str, Job], holder: str, now: datetime) -> list[Job]:
    """Give items their results; one that has a result, or is another dispatcher's by now, is left as it is."""
    changed: dict[str, Job] = {}
    for outcome in outcomes:
        job = jobs.get(outcome.item.job_id)
        mine = JobItem.objects.filter(pk=outcome.item.pk, state=State.RUNNING, run=holder)
        if job is None or not mine.update(
            state=State.COMPLETED if outcome.is_good else State.FAILED,
            result=outcome.line,
            prompt_tokens=outcome.prompt_tokens,
            completion_tokens=outcome.completion_tokens,
            ended_at=now,
            run="",
        ):
            continue
        size = len(outcome.line.encode()) + 1
        if outcome.is_good:
            job.completed += 1
            job.output_bytes += size
        else:
            job.failed += 1
            job.error_bytes += size
        job.prompt_tokens += outcome.prompt_tokens
        job.completion_tokens += outcome.completion_tokens
        changed[job.pk] = job
    return list(changed.values())


def _note_again(again: Sequence[Again], jobs: Mapping[str, Job], holder: str, now: datetime) -> None:
    for retry in again:
        if retry.item.job_id not in jobs:
            continue
        mine = JobItem.objects.filter(pk=retry.item.pk, state=State.RUNNING, run=holder)
        if retry.counts:
            attempts = retry.item.attempts + 1
            mine.update(state=State.PENDING, run="", attempts=attempts, not_before=now + pause_before(attempts))
        else:
            mine.update(state=State.PENDING, run="")


def _take(job: Job | None, count: int, suspect: bool, holder: str, now: datetime) -> list[Item]:
    """Take items into work. Of those that were tried before, at most one: what takes its worker down should take as
    few others with it as can be."""
    if job is None:
        return []
    waiting = JobItem.objects.filter(job=job, state=State.PENDING)
    rows = list(waiting.filter(attempts=0).order_by("index")[:count])
    if suspect and len(rows) < count + 1:
        rows += waiting.filter(attempts__gt=0, not_before__lte=now).order_by("attempts", "index")[:1]
    if not rows:
        return []
    JobItem.objects.filter(pk__in=[row.pk for row in rows]).update(state=State.RUNNING, run=holder)
    if job.state == Job.State.QUEUED:
        job.state = Job.State.RUNNING
    job.started_at = job.started_at or now
    return [_item(job, row) for row in rows]


def _item(job: Job, row: JobItem) -> Item:
    return Item(
        pk=row.pk,
        job_id=job.pk,
        index=row.index,
        custom_id=row.custom_id,
        attempts=row.attempts,
        kind=job.kind,
        model=job.model,
        is_openai=job.is_openai_batch,
        body=row.body or {},
        defaults=job.defaults,
    )


def end_if_done(job: Job) -> bool:
    """End a job all of whose items have ended."""
    if job.state == Job.State.VALIDATING or job.ended < job.total:
        return False
    return end(job, Job.State.COMPLETED if job.completed else Job.State.FAILED)
