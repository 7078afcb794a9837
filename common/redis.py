"""Connections to Redis: one pool per process for threads, one per event loop for coroutines."""

import asyncio
from functools import cache
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from django.conf import settings
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.redis_line import RedisLine

CONNECT_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 5.0
REST_SECONDS = 1.0
# Of each pool. Who finds all of them taken waits for one, ANSWER_TIMEOUT_SECONDS at most.
MAX_CONNECTIONS = 64
# A connection that was closed meanwhile is made anew; a Redis that hangs is not waited for twice.
_RETRIED = (redis.ConnectionError,)

_lines: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, RedisLine]] = WeakKeyDictionary()
_async_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, redis.asyncio.Redis]] = WeakKeyDictionary()


def key(*parts: object) -> str:
    """A key of this installation: the prefix, then the parts joined by colons."""
    return settings.REDIS_PREFIX + ":".join(map(str, parts))


def sync_redis() -> redis.Redis:
    """The client that this process's threads share. It answers bytes, and gives up after ANSWER_TIMEOUT_SECONDS."""
    return _sync_client(settings.REDIS_URL)


def async_redis() -> redis.asyncio.Redis:
    """The client of the running event loop. It answers bytes, and gives up after ANSWER_TIMEOUT_SECONDS."""
    clients = _async_clients.setdefault(asyncio.get_running_loop(), {})
    url = settings.REDIS_URL
    if url not in clients:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=ANSWER_TIMEOUT_SECONDS,
            socket_timeout=ANSWER_TIMEOUT_SECONDS,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            retry=AsyncRetry(NoBackoff(), 1, _RETRIED),
        )
        clients[url] = redis.asyncio.Redis.from_pool(pool)
    return clients[url]


def redis_line() -> RedisLine:
    """The connection that the running event loop's coroutines share, for short commands of the request path."""
    lines = _lines.setdefault(asyncio.get_running_loop(), {})
    url = settings.REDIS_URL
    if url not in lines:
        lines[url] = _new_line(rest_seconds=REST_SECONDS)
    return lines[url]


def new_redis_line() -> RedisLine:
    """A connection of one's own, for commands that wait, which would hold the others up."""
    return _new_line(rest_seconds=0.0)


def _new_line(*, rest_seconds: float) -> RedisLine:
    return RedisLine(
        settings.REDIS_URL,
        connect_seconds=CONNECT_TIMEOUT_SECONDS,
        answer_seconds=ANSWER_TIMEOUT_SECONDS,
        rest_seconds=rest_seconds,
    )


async def close_async_redis() -> None:
    """Close what the running event loop has opened; call it before the loop ends."""
    for line in _lines.pop(asyncio.get_running_loop(), {}).values():
        await line.close()
    for client in _async_clients.pop(asyncio.get_running_loop(), {}).values():
        await client.aclose()


@cache
def _sync_client(url: str) -> redis.Redis:
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=ANSWER_TIMEOUT_SECONDS,
        socket_timeout=ANSWER_TIMEOUT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 1, _RETRIED),
    )
    return redis.Redis.from_pool(pool)
