"""The Celery application."""

import os

from celery import Celery, signals

from llama_gpu_site import broker

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llama_gpu_site.settings")

broker.install()
app = Celery("llama_gpu")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def keep_logging(**_: object) -> None:
    """Django has set logging up; that somebody listens here keeps Celery from doing it again."""
