"""Periodic work of the scheduler. What jobs consist of runs as the tasks of inference."""

from celery import shared_task

from jobs import upkeep


@shared_task(name="jobs.tasks.prune", ignore_result=True)  # type: ignore[untyped-decorator]
def prune() -> None:
    upkeep.prune()
