"""Starts this project's Celery workers: threads, one queue, no chatter with other workers."""

import sys
import threading
import warnings
from typing import Any

from celery.apps.worker import Worker
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.worker import WorkController

from llama_gpu_site.celery import app, make_app

_OPTIONS: dict[str, Any] = {
    "pool": "threads",
    "prefetch_multiplier": 1,
    "without_gossip": True,
    "without_mingle": True,
    "without_heartbeat": True,
    "quiet": True,
    "loglevel": "WARNING",
}


def run_worker(*, name: str, queue: str, threads: int, **options: Any) -> None:
    """Serve one queue until SIGTERM, then let what runs come to its end."""
    # Containers run as root; the danger this warns of is pickle, which is not accepted here.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # Tells at every lost connection that running tasks are not cancelled then; that is what is wanted.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    worker: Worker = app.Worker(
        hostname=name, queues=[queue], concurrency=threads, redirect_stdouts=False, **_OPTIONS, **options
    )
    worker.start()
    sys.exit(worker.exitcode)


class _SecondController(WorkController):  # type: ignore[misc]  # Celery has no types
    """A consumer beside the process's own worker; the signals of the process's life are that one's to send."""

    def _send_worker_shutdown(self) -> None:
        pass


def serve_beside(*, name: str, queue: str, threads: int) -> None:
    """Serve another queue in this process, with threads of its own, so that its tasks never wait behind the others.

    It ends with the process: Celery's state of ending is one for all its controllers.
    """
    # An application of its own, since the queues that are consumed are the application's.
    controller = _SecondController(
        app=make_app(), hostname=name, queues=[queue], concurrency=threads, use_eventloop=False, **_OPTIONS
    )
    threading.Thread(target=controller.start, name=f"consumer-{queue}", daemon=True).start()
