"""`manage.py worker --device cpu`: the worker of one device."""

import os
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from models_mgmt.devices import discover_devices, is_device, threads_per_worker
from models_mgmt.presence import control_queue_name, queue_name


class Command(BaseCommand):
    help = "Serve inference on one device of this host."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--device", help="cpu, cuda0, cuda1, … or mps; the first one found if left out")
        parser.add_argument("--workers-on-host", type=int, help="how many workers share this host's cores")

    def handle(self, *args: Any, **options: Any) -> None:
        found = discover_devices(settings.DEVICES)
        device = options["device"] or settings.WORKER_DEVICE or found[0]
        if not is_device(device):
            raise CommandError(f"{device!r} is no device; it must be cpu, mps, or cuda with a number, such as cuda0.")
        settings.WORKER_DEVICE = device  # what the environment says, unless the option says otherwise
        # Inherited by the engine processes, and read when torch is loaded there.
        os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_worker(options["workers_on_host"] or len(found))))

        from llama_gpu_site.celery_worker import run_worker, serve_beside
        from monitoring.logs import keep_log

        keep_log(f"worker-{device}")
        host = settings.WORKER_HOST
        control = control_queue_name(host, device)
        serve_beside(name=f"control-{device}@{host}", queue=control, threads=settings.CONTROL_THREADS)
        run_worker(name=f"{device}@{host}", queue=queue_name(host, device), threads=settings.WORKER_THREADS)
