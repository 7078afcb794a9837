"""The files of answers that OpenAI's clients expect of a batch. They have no chunks: they are read from the items."""

from django.utils import timezone

from jobs import results
from jobs.ids import new_id
from jobs.models import File, Job, JobItem

State = JobItem.State


def make_output_files(job: Job) -> None:
    """Make an ended batch's files: of its answers, and of its errors, if it has such."""
    if not job.is_openai_batch:
        return
    never_run = sum(len(line) for part in results.lines(job, (State.CANCELLED,)) for line in part)
    for errors, size in ((False, job.output_bytes), (True, job.error_bytes + never_run)):
        if size:
            File.objects.create(
                id=new_id("file-"),
                owner_id=job.owner_id,
                name=f"{job.id}_{'error' if errors else 'output'}.jsonl",
                purpose=File.Purpose.BATCH_OUTPUT,
                size=size,
                is_complete=True,
                job=job,
                errors=errors,
                created_at=timezone.now(),
                expires_at=job.keep_until,
            )


def states_in(file: File) -> tuple[State, ...]:
    """Whose lines a file of answers holds."""
    return (State.FAILED, State.CANCELLED) if file.errors else (State.COMPLETED,)
