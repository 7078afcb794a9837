"""Counts a model's waiting and running requests exactly, over all web processes, and keeps places for both tiers.

A sorted set per model holds one member per request, scored by its deadline, so that what a crash left behind falls out
by itself; a second one holds those of them that go first. Check, entry and the task's publication are one script; Redis
measures the time.
"""

from collections.abc import Iterable, Sequence

import redis.asyncio
from django.conf import settings

from common import metric_catalogue
from common.errors import BackendUnavailable
from common.redis_line import Argument, RedisLine, Script
from inference.keys import first_in_queue, model_queue, standard_refused

RETRY_AFTER_SECONDS = 2
_SLACK_SECONDS = 30.0
# For so long after one was refused, standard requests count as waiting: time to come back.
_REFUSED_SECONDS = 10

# KEYS: the requests, those of them that go first, the mark of a refused standard one, the broker's list.
# ARGV: the places, a tier's share of them, '1' for requests that go first, how long they may stay, how long a refusal
# is remembered, the message, the requests.
_ENTER = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local held, ahead = redis.call('ZCARD', KEYS[1]), redis.call('ZCARD', KEYS[2])
local places, share, is_first = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local alike = is_first and ahead or held - ahead
if is_first and held == ahead and redis.call('EXISTS', KEYS[3]) == 0 then share = places end
local new = 0
for i = 7, #ARGV do
    if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then new = new + 1 end
end
if new > 0 and (held + new > places or alike + new > share) then
    if not is_first then redis.call('SET', KEYS[3], '1', 'EX', ARGV[5]) end
    return {held, alike, share}
end
local deadline = now + tonumber(ARGV[4])
for i = 7, #ARGV do
    redis.call('ZADD', KEYS[1], deadline, ARGV[i])
    if is_first then redis.call('ZADD', KEYS[2], deadline, ARGV[i]) end
end
redis.call('LPUSH', KEYS[4], ARGV[6])
return {}
"""
_enter = Script(_ENTER)


async def enter(
    line: RedisLine,
    *,
    model_id: str,
    request_ids: Sequence[str],
    goes_first: bool,
    seconds: float,
    broker_list: str,
    message: bytes,
) -> None:
    """Take a place for each request and publish the message, or neither. Who has a place already, keeps it.

    Standard requests fill no more than their share of the places; those that go first may fill all of them while no
    standard one is there or was refused a moment ago, and then no more than the same share. Raises BackendUnavailable
    when there are too few places, redis.RedisError when Redis can't be reached.
    """
    share = max(1, int(settings.MAX_QUEUE * settings.QUEUE_SHARE))
    names = [model_queue(model_id), first_in_queue(model_id), standard_refused(model_id), broker_list]
    arguments: list[Argument] = [settings.MAX_QUEUE, share, int(goes_first), seconds + _SLACK_SECONDS, _REFUSED_SECONDS]
    full = await _enter.run(line, names, [*arguments, message, *request_ids])
    if full:
        held, alike, most = full
        metric_catalogue.QUEUE_FULL.add(model_id)
        raise BackendUnavailable(
            "The model's queue is full; try again later.",
            details={
                "model": model_id,
                "queued": held,
                "max_queue": settings.MAX_QUEUE,
                "tier_queued": alike,
                "tier_max_queue": most,
            },
            retry_after=RETRY_AFTER_SECONDS,
        )


def leave_in(
    pipe: "redis.client.Pipeline | redis.asyncio.client.Pipeline", model_id: str, request_ids: Iterable[str]
) -> None:
    """Give places back, as steps of a pipeline, which are not sent yet. Safe to repeat."""
    ids = list(request_ids)
    pipe.zrem(model_queue(model_id), *ids)
    pipe.zrem(first_in_queue(model_id), *ids)
