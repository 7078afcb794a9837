"""Celery tasks of the scheduler's queue."""

from celery import shared_task

from accounts import upkeep


@shared_task(name="accounts.tasks.prune_audit", ignore_result=True)  # type: ignore[untyped-decorator]
def prune_audit() -> None:
    upkeep.prune_audit()
