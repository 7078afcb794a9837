"""`manage.py scheduler`: the clock of periodic work (Celery beat), the maintenance queue's worker and the dispatcher of
jobs in one."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

MAINTENANCE_THREADS = 2


class Command(BaseCommand):
    help = "Run periodic work and jobs. One per installation is enough; a second one takes over when it ends."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        from celery.beat import EmbeddedService

        from jobs.dispatcher_thread import DispatcherThread
        from llama_gpu_site.celery import app
        from llama_gpu_site.celery_worker import run_worker
        from monitoring.logs import keep_log

        keep_log("scheduler")
        settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
        clock = EmbeddedService(app, thread=True, schedule_filename=str(settings.DATA_DIR / "schedule"))
        clock.start()
        dispatcher = DispatcherThread()
        dispatcher.start()
        try:
            run_worker(
                name=f"scheduler@{settings.WORKER_HOST}",
                queue=app.conf.task_default_queue,
                threads=MAINTENANCE_THREADS,
            )
        finally:
            dispatcher.stop()
            clock.stop()
