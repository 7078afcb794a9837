"""Counts a model's waiting and running requests exactly, over all web processes.

A sorted set per model holds one member per request, scored by its deadline, so that what a crash left behind falls out
by itself. Check, entry and the task's publication are one script; Redis measures the time.
"""

from collections.abc import Sequence

from django.conf import settings

from common import metric_catalogue
from common.errors import BackendUnavailable
from common.redis_line import Argument, RedisLine, Script
from inference.keys import model_queue

RETRY_AFTER_SECONDS = 2
_SLACK_SECONDS = 30.0

_ENTER = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local held = redis.call('ZCARD', KEYS[1])
local new = 0
for i = 4, #ARGV do
    if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then new = new + 1 end
end
if new > 0 and held + new > tonumber(ARGV[1]) then return held end
for i = 4, #ARGV do redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[i]) end
redis.call('LPUSH', KEYS[2], ARGV[3])
return -1
"""
_enter = Script(_ENTER)


async def enter(
    line: RedisLine,
    *,
    model_id: str,
    request_ids: Sequence[str],
    seconds: float,
    broker_list: str,
    message: bytes,
) -> None:
    """Take a place for each request and publish the message, or neither. Who has a place already, keeps it.

    Raises BackendUnavailable when there are too few places, redis.RedisError when Redis can't be reached.
    """
    arguments: list[Argument] = [settings.MAX_QUEUE, seconds + _SLACK_SECONDS, message, *request_ids]
    held = await _enter.run(line, [model_queue(model_id), broker_list], arguments)
    if held >= 0:
        metric_catalogue.QUEUE_FULL.add(model_id)
        raise BackendUnavailable(
            "The model's queue is full; try again later.",
            details={"model": model_id, "queued": held, "max_queue": settings.MAX_QUEUE},
            retry_after=RETRY_AFTER_SECONDS,
        )
