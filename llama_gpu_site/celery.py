"""The Celery application."""

import os

from celery import Celery, signals

from llama_gpu_site import broker

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llama_gpu_site.settings")

broker.install()


def make_app(*, current: bool = False) -> Celery:
    """An application with this project's settings and tasks."""
    made = Celery("llama_gpu", set_as_current=current)
    made.config_from_object("django.conf:settings", namespace="CELERY")
    made.autodiscover_tasks()
    return made


app = make_app(current=True)


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def keep_logging(**_: object) -> None:
    """Django has set logging up; that somebody listens here keeps Celery from doing it again."""
