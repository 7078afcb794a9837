"""The server that runs on this host's data folder, as a command beside it sees it."""

import json

import redis
from django.conf import settings

from models_mgmt.presence import WorkerReport, live_workers


def use_embedded_redis() -> None:
    """Point this process to the private valkey-server of a running server, unless REDIS_URL names another one."""
    if not settings.EMBEDDED_REDIS:
        return
    try:
        instance = json.loads((settings.DATA_DIR / "instance.json").read_text())
    except (OSError, ValueError):
        return
    settings.REDIS_URL = instance.get("redis_url") or settings.REDIS_URL


def workers_if_any() -> list[WorkerReport] | None:
    """The live workers; None where no server runs."""
    use_embedded_redis()
    try:
        return live_workers()
    except redis.RedisError:
        return None
