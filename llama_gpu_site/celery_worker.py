"""Starts this project's Celery workers: threads, one queue, no chatter with other workers."""

import sys
import warnings
from typing import Any

from celery.apps.worker import Worker
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning

from llama_gpu_site.celery import app


def run_worker(*, name: str, queue: str, threads: int, **options: Any) -> None:
    """Serve one queue until SIGTERM, then let what runs come to its end."""
    # Containers run as root; the danger this warns of is pickle, which is not accepted here.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # Tells at every lost connection that running tasks are not cancelled then; that is what is wanted.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    worker: Worker = app.Worker(
        hostname=name,
        queues=[queue],
        pool="threads",
        concurrency=threads,
        prefetch_multiplier=1,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
        loglevel="WARNING",
        redirect_stdouts=False,
        **options,
    )
    worker.start()
    sys.exit(worker.exitcode)
