"""Periodic work of the scheduler."""

from celery import shared_task

from common import events
from common.redis import sync_redis
from monitoring import packing, retention


@shared_task(name="monitoring.tasks.prune", ignore_result=True)  # type: ignore[untyped-decorator]
def prune() -> None:
    retention.prune()


@shared_task(name="monitoring.tasks.pack", ignore_result=True)  # type: ignore[untyped-decorator]
def pack() -> None:
    seconds, _ = sync_redis().time()
    packing.pack(float(seconds))


@shared_task(name="monitoring.tasks.forget_completions", ignore_result=True)  # type: ignore[untyped-decorator]
def forget_completions() -> None:
    events.forget_completions()
