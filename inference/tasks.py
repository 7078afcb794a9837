"""The Celery task that the gateway publishes."""

from celery import shared_task

from inference import worker_runtime
from inference.messages import decode_job


@shared_task(name="inference.tasks.generate", acks_late=True, ignore_result=True)  # type: ignore[untyped-decorator]
def generate(message: str) -> None:
    """Run one encoded Job. Safe to run twice."""
    worker_runtime.current().run(decode_job(message))
