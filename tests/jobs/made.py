"""Jobs as they are in the database."""

from datetime import timedelta
from typing import Any

from django.utils import timezone

from accounts.models import User
from jobs.ids import new_id
from jobs.models import File, FileChunk, Job, JobItem


def a_job(owner: User, items: int = 3, **fields: Any) -> Job:
    """A job of a batch whose items wait."""
    job = Job.objects.create(
        **{
            "id": new_id("job_"),
            "owner": owner,
            "kind": Job.Kind.BATCH,
            "model": "default",
            "total": items,
            "expires_at": timezone.now() + timedelta(hours=1),
            **fields,
        }
    )
    JobItem.objects.bulk_create(
        [
            JobItem(job=job, index=index, custom_id=str(index), body={"text": f"prompt {index}"})
            for index in range(items)
        ]
    )
    return job


def an_ended_job(owner: User, **fields: Any) -> Job:
    """One that has no items and was cancelled."""
    return a_job(owner, 0, state=Job.State.CANCELLED, ended_at=timezone.now(), **fields)


def a_file(owner: User, content: bytes = b"{}\n", **fields: Any) -> File:
    """An uploaded file."""
    file = File.objects.create(
        id=new_id("file-"), owner=owner, name="prompts.jsonl", size=len(content), is_complete=True, **fields
    )
    FileChunk.objects.create(file=file, number=0, data=content)
    return file
