"""Token budgets of keys: reserved before a request, settled after it, never overdrawn.

A budget is one hash in Redis: the tokens `used` in this window, what running requests may still take of them included
(`reserved`), and when the window `ends`. A reservation is a string of its own, under its request's id alone, so that
whoever learns of the request's end first can settle it: the worker, in the round trip that sends the answer, or the web
process that lost its worker. The others find nothing to do. What nobody settles is given back when it is due. No
request takes more than its reservation: the engine refuses what could (`most_tokens` of engine.messages.Generate).
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import redis

from accounts.caller import TokenBudget
from common import metric_catalogue
from common.errors import InvalidInput, RateLimitExceeded
from common.redis import key, redis_line, sync_redis
from common.redis_line import Script

_SLACK_SECONDS = 60.0

# KEYS: the budget, its due reservations, then the reservations.
# ARGV: the budget's tokens, the window, the tokens of all reservations, the milliseconds until they are due, the least
# that each can do with when there is too little for what they want ('0': they can't), the tokens of each.
_RESERVE = """
local time = redis.call('TIME')
local now = tonumber(time[1])
local now_ms = now * 1000 + math.floor(tonumber(time[2]) / 1000)
local function give_back(member)
    local amount = string.match(member, ' (%d+)$')
    redis.call('HINCRBY', KEYS[1], 'used', '-' .. amount)
    redis.call('HINCRBY', KEYS[1], 'reserved', '-' .. amount)
    redis.call('ZREM', KEYS[2], member)
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_ms)) do give_back(member) end
local held = redis.call('HMGET', KEYS[1], 'used', 'reserved', 'ends')
local used, reserved = tonumber(held[1] or '0'), tonumber(held[2] or '0')
local ends = held[3] or string.format('%d', now + tonumber(ARGV[2]))
local left, most, least = tonumber(ARGV[1]) - used, tonumber(ARGV[1]), tonumber(ARGV[5])
if tonumber(ARGV[3]) > left then
    most = math.floor(left / (#KEYS - 2))
    if least == 0 or most < least then return {0, used, reserved, tonumber(ends), now, 0} end
end
redis.call('HSET', KEYS[1], 'ends', ends)
for i = 3, #KEYS do
    local amount = string.format('%d', math.min(tonumber(ARGV[i + 3]), most))
    local place = ends .. ' ' .. KEYS[1] .. ' ' .. KEYS[2] .. ' ' .. ARGV[1]
    reserved = redis.call('HINCRBY', KEYS[1], 'reserved', amount)
    used = redis.call('HINCRBY', KEYS[1], 'used', amount)
    redis.call('SET', KEYS[i], amount .. ' ' .. place, 'PX', ARGV[4])
    redis.call('ZADD', KEYS[2], now_ms + tonumber(ARGV[4]), KEYS[i] .. ' ' .. amount)
end
redis.call('EXPIREAT', KEYS[1], ends)
redis.call('EXPIREAT', KEYS[2], ends)
return {1, used, reserved, tonumber(ends), now, most}
"""
# KEYS: a reservation; ARGV: the tokens that it shall be. One of a window that has ended is charged nothing.
_RAISE = """
local held = redis.call('GET', KEYS[1]) or ''
local amount, place, ends, budget, due, limit = string.match(held, '^(%d+) ((%d+) (%S+) (%S+) (%d+))$')
if not amount then return 0 end
if redis.call('HGET', budget, 'ends') == ends then
    local more = tonumber(ARGV[1]) - tonumber(amount)
    if more <= 0 then return 1 end
    if tonumber(redis.call('HGET', budget, 'used')) + more > tonumber(limit) then return 0 end
    redis.call('HINCRBY', budget, 'used', string.format('%d', more))
    redis.call('HINCRBY', budget, 'reserved', string.format('%d', more))
    local due_at = redis.call('ZSCORE', due, KEYS[1] .. ' ' .. amount)
    redis.call('ZREM', due, KEYS[1] .. ' ' .. amount)
    if due_at then redis.call('ZADD', due, due_at, KEYS[1] .. ' ' .. ARGV[1]) end
end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. place, 'KEEPTTL')
return 1
"""
# KEYS: reservations; ARGV: the tokens that each has really taken. Those of a window that has ended change nothing.
_SETTLE = """
for i, name in ipairs(KEYS) do
    local amount, ends, budget, due = string.match(redis.call('GET', name) or '', '^(%d+) (%d+) (%S+) (%S+) ')
    if amount then
        redis.call('DEL', name)
        redis.call('ZREM', due, name .. ' ' .. amount)
        if redis.call('HGET', budget, 'ends') == ends then
            redis.call('HINCRBY', budget, 'reserved', '-' .. amount)
            redis.call('HINCRBY', budget, 'used', '-' .. amount)
            redis.call('HINCRBY', budget, 'used', ARGV[i])
        end
    end
end
"""
_reserve, _settle = Script(_RESERVE), Script(_SETTLE)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a key's budget stands. `used` includes `reserved`, which running requests may still take.

    `reset`: Unix time, in seconds, at which the window ends; 0 when none has begun. `most`: what a request that has
    just reserved got of what it wanted, at most.
    """

    limit: int
    used: int
    reserved: int
    reset: int
    most: int = 0

    @property
    def remaining(self) -> int:
        return max(self.limit - self.used, 0)

    @property
    def headers(self) -> dict[str, str]:
        return {
            "X-TokenBudget-Limit": str(self.limit),
            "X-TokenBudget-Remaining": str(self.remaining),
            "X-TokenBudget-Reset": str(self.reset),
        }


class BudgetExceeded(RateLimitExceeded):
    """The budget has not so many tokens left in this window."""

    def __init__(self, standing: Standing, *, needed: int, retry_after: int) -> None:
        super().__init__(
            "The key's token budget has too few tokens left.",
            details={
                "token_budget": standing.limit,
                "remaining": standing.remaining,
                "reserved": standing.reserved,
                "needed": needed,
                "reset": standing.reset,
            },
            retry_after=retry_after,
        )
        self.standing = standing

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, **self.standing.headers}


async def reserve(
    key_id: int, budget: TokenBudget, tokens: Mapping[str, int], *, seconds: float, least: int = 0
) -> Standing:
    """Reserve the most tokens that each request, by its id, can take; all of them or none.

    `seconds`: how long the requests may run. `least`: when there are too few tokens left, each takes an equal share of
    them (`most` of what is returned), if that is no less; 0: they don't. Raises BudgetExceeded, InvalidInput for what
    can never fit, and redis' RedisError.
    """
    needed = sum(tokens.values())
    if needed > budget.tokens:
        details = {"needed": needed, "token_budget": budget.tokens}
        message = "This may take more tokens than your key's whole budget."
        raise InvalidInput(message, field="max_tokens", details=details)
    names = [*_names(key_id), *map(_reservation, tokens)]
    due = int((seconds + _SLACK_SECONDS) * 1000)
    arguments = (budget.tokens, budget.window, needed, due, least, *tokens.values())
    reply = await _reserve.run(redis_line(), names, arguments)
    admitted, used, reserved, reset, now, most = (int(value) for value in reply)
    standing = Standing(limit=budget.tokens, used=used, reserved=reserved, reset=reset, most=most)
    if not admitted:
        metric_catalogue.RATE_LIMITED.add("token_budget", "authenticated")
        raise BudgetExceeded(standing, needed=needed, retry_after=max(reset - now, 1))
    return standing


def raise_now(request_id: str, tokens: int) -> bool:
    """Reserve more for a request that turned out longer; False when the budget hasn't that much left. For a thread.

    Raises redis' RedisError.
    """
    return bool(sync_redis().eval(_RAISE, 1, _reservation(request_id), str(tokens)))


def settle_in(pipe: "redis.client.Pipeline", tokens: Mapping[str, int]) -> None:
    """Charge what requests have taken instead of what was reserved, as one step of a pipeline. Safe to repeat."""
    pipe.eval(_SETTLE, len(tokens), *map(_reservation, tokens), *map(str, tokens.values()))


async def release(request_ids: list[str]) -> None:
    """Give reservations back whole; those of ended requests are gone already.

    Without Redis nothing happens: what stays reserved is given back when it is due.
    """
    if request_ids:
        with contextlib.suppress(redis.RedisError):
            names = [_reservation(request_id) for request_id in request_ids]
            await _settle.run(redis_line(), names, [0] * len(names))


async def standing(key_id: int, budget: TokenBudget) -> Standing:
    """Where a key stands now."""
    fields = await redis_line().execute("HMGET", _names(key_id)[0], "used", "reserved", "ends")
    used, reserved, reset = (int(value or 0) for value in fields)
    return Standing(limit=budget.tokens, used=used, reserved=reserved, reset=reset)


def _names(key_id: int) -> tuple[str, str]:
    return key("budget", key_id), key("budget", key_id, "due")


def _reservation(request_id: str) -> str:
    return key("reserved", request_id)
