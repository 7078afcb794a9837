"""`manage.py models unload`."""

import argparse
import asyncio
from typing import Any, TextIO

from celery import current_app
from django.conf import settings

from accounts.audit import commanding
from common.byte_sizes import format_bytes
from common.redis import close_async_redis
from llama_gpu_site.models_command.running import use_embedded_redis
from models_mgmt.deployments import Unloaded, unload
from models_mgmt.models import Model
from models_mgmt.selectors import resolve_model

HELP = "Unload a model, and say how much memory that has freed."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help='an id, an alias, or "default"')
    parser.add_argument("--force", action="store_true", help="fail what still runs instead of waiting for its end")
    parser.add_argument("--device", default="", help="only from there, such as cuda0 or host/cuda0")


def run(options: dict[str, Any], out: TextIO) -> None:
    use_embedded_redis()
    current_app.conf.broker_url = settings.REDIS_URL
    model = resolve_model(options["model"])
    done = asyncio.run(_unload(model, options))
    if not done.was_loaded:
        out.write(f"{model.pk} was not loaded.\n")
        return
    out.write(
        f"{model.pk} is unloaded from {', '.join(done.places)}; {format_bytes(done.freed_bytes)} are free again.\n"
    )


async def _unload(model: Model, options: dict[str, Any]) -> Unloaded:
    try:
        return await unload(model, force=options["force"], device=options["device"], actor=commanding("models unload"))
    finally:
        await close_async_redis()
