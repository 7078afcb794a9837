"""Tells whoever watches how jobs go on."""

from common import events
from common.events import publish
from jobs.models import Job

_KINDS: dict[str, type[events.AnyJobEvent]] = {
    Job.State.VALIDATING: events.JobCreated,
    Job.State.QUEUED: events.JobCreated,
    Job.State.RUNNING: events.JobProgress,
    Job.State.COMPLETED: events.JobCompleted,
    Job.State.FAILED: events.JobFailed,
    Job.State.CANCELLED: events.JobCancelled,
    Job.State.EXPIRED: events.JobExpired,
}


def tell(job: Job) -> None:
    """Say what a job has come to."""
    publish(
        _KINDS[job.state](
            job_id=job.id,
            kind=job.kind,
            model=job.model,
            user_id=job.owner_id,
            state=str(job.state),
            total=job.total,
            completed=job.completed,
            failed=job.failed,
            cancelled=job.cancelled,
        )
    )
