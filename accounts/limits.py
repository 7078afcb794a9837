"""Requests per window, counted exactly: one atomic step in Redis for any number of threads, processes and hosts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from django.conf import settings

from accounts.caller import Caller
from common.redis import key, redis_line, sync_redis
from common.redis_line import Script

# A window begins with its first request and ends `ARGV[2]` seconds later, on a whole second, so that every answer in it
# tells the same end. A refused request is not counted.
_BEGINNING = """
local time = redis.call('TIME')
local now = tonumber(time[1])
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
local admitted = used < tonumber(ARGV[1]) and 1 or 0
"""
_COUNTING = """
if admitted == 1 then
    used = redis.call('INCR', KEYS[1])
    if used == 1 then redis.call('EXPIREAT', KEYS[1], now + tonumber(ARGV[2])) end
end
"""
_END = """
local left = redis.call('PTTL', KEYS[1])
local ends = now + tonumber(ARGV[2])
if left >= 0 then ends = math.floor(now + (tonumber(time[2]) / 1000 + left) / 1000 + 0.5) end
return {admitted, used, ends, now}
"""
_COUNT, _LOOK = _BEGINNING + _COUNTING + _END, _BEGINNING + _END
_count, _look = Script(_COUNT), Script(_LOOK)


@dataclass(frozen=True, slots=True)
class Usage:
    """Where a caller stands after a request. `reset`: Unix time, in seconds, at which the window ends."""

    is_admitted: bool
    limit: int
    remaining: int
    reset: int
    retry_after: int

    @property
    def headers(self) -> dict[str, str]:
        shown = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset),
        }
        return shown if self.is_admitted else {**shown, "Retry-After": str(self.retry_after)}


def limit_for(group: str, caller: Caller) -> int:
    """Requests per window that this caller has in an endpoint group."""
    authenticated, unauthenticated, _ = settings.RATE_LIMITS[group]
    if caller.is_anonymous:
        return int(unauthenticated)
    for_inference, for_the_rest, _ = settings.TIERS[caller.tier]
    return int(authenticated * (for_inference if group in settings.INFERENCE_GROUPS else for_the_rest))


async def count_request(group: str, caller: Caller) -> Usage:
    """Count one request of the caller in an endpoint group; one round trip. Raises redis' ConnectionError."""
    _, _, window = settings.RATE_LIMITS[group]
    return await count(f"{group}:{caller.identity}", limit=limit_for(group, caller), window=window)


async def count(name: str, *, limit: int, window: int) -> Usage:
    """Count one use of `name`, of which `limit` are admitted in each window of `window` seconds."""
    return _usage(await _count.run(redis_line(), [key("limit", name)], [limit, window]), limit)


async def look(name: str, *, limit: int, window: int) -> Usage:
    """Where `name` stands; `is_admitted` tells whether another use would be. Raises redis' RedisError."""
    return _usage(await _look.run(redis_line(), [key("limit", name)], [limit, window]), limit)


def count_now(name: str, *, limit: int, window: int) -> Usage:
    """`count` for a thread."""
    return _usage(cast("Any", sync_redis()).eval(_COUNT, 1, key("limit", name), limit, window), limit)


def _usage(reply: Iterable[int], limit: int) -> Usage:
    admitted, used, reset, now = (int(value) for value in reply)
    return Usage(
        is_admitted=bool(admitted),
        limit=limit,
        remaining=max(limit - used, 0),
        reset=reset,
        retry_after=max(reset - now, 1),
    )
