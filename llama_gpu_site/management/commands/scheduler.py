"""`manage.py scheduler`: the clock of periodic work (Celery beat) and the maintenance queue's worker in one."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

MAINTENANCE_THREADS = 2


class Command(BaseCommand):
    help = "Run periodic work. One per installation is enough."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        from celery.beat import EmbeddedService

        from llama_gpu_site.celery import app
        from llama_gpu_site.celery_worker import run_worker
        from monitoring.logs import keep_log

        keep_log("scheduler")
        settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
        clock = EmbeddedService(app, thread=True, schedule_filename=str(settings.DATA_DIR / "schedule"))
        clock.start()
        try:
            run_worker(
                name=f"scheduler@{settings.WORKER_HOST}",
                queue=app.conf.task_default_queue,
                threads=MAINTENANCE_THREADS,
            )
        finally:
            clock.stop()
