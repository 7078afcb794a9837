"""Counts a model's waiting and running requests exactly, over all web processes.

A sorted set per model holds one member per request, scored by its deadline, so that what a crash left behind falls out
by itself. Check and entry are one script; Redis measures the time.
"""

from collections.abc import Sequence
from typing import Any, cast

import redis.asyncio
from django.conf import settings

from common.errors import BackendUnavailable
from inference.keys import model_queue

RETRY_AFTER_SECONDS = 2
_SLACK_SECONDS = 30.0

_ENTER = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local held = redis.call('ZCARD', KEYS[1])
if held + #ARGV - 2 > tonumber(ARGV[1]) then return held end
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[i]) end
return -1
"""


class QueueLimit:
    """The limit of settings.MAX_QUEUE requests per model."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._enter = client.register_script(_ENTER)

    async def enter(self, model_id: str, request_ids: Sequence[str], seconds: float) -> None:
        """Take a place for each request, or for none. Raises BackendUnavailable when there are too few."""
        arguments: list[str | float] = [settings.MAX_QUEUE, seconds + _SLACK_SECONDS, *request_ids]
        held = await cast("Any", self._enter(keys=[model_queue(model_id)], args=arguments))
        if held >= 0:
            raise BackendUnavailable(
                "The model's queue is full; try again later.",
                details={"model": model_id, "queued": held, "max_queue": settings.MAX_QUEUE},
                retry_after=RETRY_AFTER_SECONDS,
            )
