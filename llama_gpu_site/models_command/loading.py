"""`manage.py models load`."""

import argparse
import time
from collections.abc import Sequence
from typing import Any, TextIO

from celery import current_app
from django.conf import settings
from django.db import connection

from accounts.audit import commanding
from common.byte_sizes import format_bytes
from common.errors import ModelLoadFailed
from llama_gpu_site.models_command.progress_bar import ProgressBar
from llama_gpu_site.models_command.running import use_embedded_redis
from models_mgmt.deployment_serializers import BACKENDS, QUANTIZATIONS
from models_mgmt.deployments import LoadOptions, error_of, request_load
from models_mgmt.memory_limit import parse_memory_limit
from models_mgmt.models import Deployment
from models_mgmt.presence import live_workers
from models_mgmt.selectors import resolve_model

HELP = "Load a model, and show how it goes."
_LOOK_SECONDS = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help='an id, an alias, or "default"')
    parser.add_argument("--backend", default="auto", choices=BACKENDS)
    parser.add_argument("--quantization", default="", choices=QUANTIZATIONS, help="by default as the server is set")
    parser.add_argument("--max-memory", default="", help="what it may take of each device: 80%% of it, or 12GB")
    parser.add_argument("--device", action="append", default=[], help="such as cuda0 or host/cuda0; several share it")
    parser.add_argument("--context-length", type=int, help="by default the model's own")
    parser.add_argument("--replicas", type=int, default=1, help="on so many devices")


def run(options: dict[str, Any], out: TextIO) -> None:
    use_embedded_redis()
    current_app.conf.broker_url = settings.REDIS_URL
    model = resolve_model(options["model"])
    limit = options["max_memory"]
    wanted = LoadOptions(
        backend=options["backend"],
        quantization=options["quantization"],
        max_memory=parse_memory_limit(limit, field="--max-memory") if limit else None,
        devices=tuple(options["device"]),
        context_length=options["context_length"],
        replicas=max(1, options["replicas"]),
    )
    requested = request_load(model, wanted, actor=commanding("models load"))
    if not requested.ids:
        out.write(f"{model.pk} is already loaded.\n")
        return
    bar = ProgressBar()
    try:
        rows = _watch(model.pk, requested.ids, bar)
    finally:
        bar.close()
    out.writelines(f"{_told(row)}\n" for row in rows)


def _told(row: Deployment) -> str:
    return (
        f"{row.model_id} is loaded on {row.host}/{'+'.join(row.devices)} after {row.load_time or 0.0:.1f} s; it takes "
        f"{format_bytes(row.measured_bytes or 0)}, {format_bytes(row.estimated_bytes)} were expected."
    )


def _watch(model_id: str, ids: Sequence[int], bar: ProgressBar) -> list[Deployment]:
    """Show the slowest of the loads until all are done. Raises ApiError."""
    deadline = time.monotonic() + settings.LOAD_TIMEOUT
    while time.monotonic() < deadline:
        rows = list(Deployment.objects.filter(pk__in=ids))
        connection.close()  # not held while nothing is read
        for row in rows:
            if not row.is_wanted:
                raise error_of(row)
        if all(row.state == Deployment.State.LOADED for row in rows):
            return rows
        places = {(row.host, row.device) for row in rows if row.state != Deployment.State.LOADED}
        reports = [
            report
            for worker in live_workers()
            if (worker.host, worker.device) in places and (report := worker.deployment(model_id)) is not None
        ]
        if reports:
            slowest = min(reports, key=lambda report: report.progress)
            bar(slowest.stage or "wait", slowest.progress)
        time.sleep(_LOOK_SECONDS)
    raise ModelLoadFailed(f"The model was not loaded within {settings.LOAD_TIMEOUT:.0f} s.")
