"""Work that one of several processes does: whoever holds the lease; another one takes it over when that one is gone."""

from typing import Any

from common.redis import key, sync_redis

_HOLD = """
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return {0, now} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, now}
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class Lease:
    """`holder` must be unique among all who want it; it is held for `seconds` after each renewal."""

    def __init__(self, name: str, *, holder: str, seconds: float) -> None:
        self._key = key("lease", name)
        self._holder = holder
        self._milliseconds = int(seconds * 1000)

    def renew(self) -> tuple[bool, float]:
        """Whether it is ours now, and the time by Redis' clock, in Unix seconds. Raises redis.RedisError."""
        answer: Any = sync_redis().eval(_HOLD, 1, self._key, self._holder, self._milliseconds)
        return bool(answer[0]), float(answer[1])

    def release(self) -> None:
        """Let another one have it at once. Raises redis.RedisError."""
        sync_redis().eval(_RELEASE, 1, self._key, self._holder)
