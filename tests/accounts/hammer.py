"""Counts against one limit from two threads: `python -m tests.accounts.hammer URL NAME CALLS`."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

from django.conf import settings

from accounts.limits import count
from common.redis import close_async_redis


async def hammer(name: str, calls: int) -> int:
    usages = await asyncio.gather(*(count(name, limit=100, window=3600) for _ in range(calls)))
    await close_async_redis()
    return sum(usage.is_admitted for usage in usages)


if __name__ == "__main__":
    url, name, calls = sys.argv[1:]
    settings.REDIS_URL = url
    with ThreadPoolExecutor(2) as threads:
        admitted = threads.map(lambda share: asyncio.run(hammer(name, share)), [int(calls) // 2] * 2)
        print(sum(admitted))
