"""Periodic work of the scheduler."""

from celery import shared_task

from monitoring import retention


@shared_task(name="monitoring.tasks.prune", ignore_result=True)  # type: ignore[untyped-decorator]
def prune() -> None:
    retention.prune()
