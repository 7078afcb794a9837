"""Questions about jobs and files; nothing here writes."""

from django.db.models import Q, QuerySet

from accounts.caller import Caller
from common.errors import NotFound
from jobs.models import File, Job, JobItem
from jobs.results import line_of


def find_jobs(caller: Caller, *, state: str = "", kind: str = "") -> QuerySet[Job]:
    """The caller's own jobs; everybody's for administrators."""
    jobs = Job.objects.all() if caller.is_admin else Job.objects.filter(owner_id=caller.user_id)
    if state:
        jobs = jobs.filter(state=state)
    return jobs.filter(kind=kind) if kind else jobs


def get_job(caller: Caller, job_id: str) -> Job:
    """Raises NotFound, also for a job that the caller may not know of."""
    job = find_jobs(caller).filter(pk=job_id).first()
    if job is None:
        raise NotFound("There is no such job.")
    return job


def newer_first(jobs: QuerySet[Job], *, after: Job | None, limit: int) -> list[Job]:
    """The next page of a list, after its last job so far."""
    if after is not None:
        older = Q(created_at__lt=after.created_at) | Q(created_at=after.created_at, pk__lt=after.pk)
        jobs = jobs.filter(older)
    return list(jobs.order_by("-created_at", "-pk")[:limit])


def find_files(caller: Caller, *, purpose: str = "") -> QuerySet[File]:
    """The caller's own files; everybody's for administrators."""
    files = File.objects.filter(is_complete=True)
    if not caller.is_admin:
        files = files.filter(owner_id=caller.user_id)
    return files.filter(purpose=purpose) if purpose else files


def get_file(caller: Caller, file_id: str) -> File:
    """Raises NotFound, also for a file of somebody else."""
    file = find_files(caller).filter(pk=file_id).select_related("job").first()
    if file is None:
        raise NotFound("There is no such file.")
    return file


def result_lines(job: Job, *, after: int, limit: int, states: tuple[JobItem.State, ...]) -> list[tuple[int, bytes]]:
    """The lines of ended items in order, with their items' indexes."""
    items = JobItem.objects.filter(job=job, index__gt=after, state__in=states).order_by("index")[:limit]
    return [(item.index, line_of(job, item)) for item in items]
