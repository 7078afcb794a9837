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

CONNECT_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 5.0
# Of each pool. Who finds all of them taken waits for one, ANSWER_TIMEOUT_SECONDS at most.
MAX_CONNECTIONS = 64

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
            retry=AsyncRetry(NoBackoff(), 1),
        )
        clients[url] = redis.asyncio.Redis.from_pool(pool)
    return clients[url]


async def close_async_redis() -> None:
    """Close what the running event loop has opened; call it before the loop ends."""
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
        retry=Retry(NoBackoff(), 1),
    )
    return redis.Redis.from_pool(pool)
