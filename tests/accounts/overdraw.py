"""Takes from one token budget as fast as it can: `python -m tests.accounts.overdraw URL BUDGET CALLS`.

Prints, as JSON, the tokens that its admitted calls took and the most that Redis ever told to be used.
"""

import asyncio
import json
import random
import sys

from django.conf import settings

from accounts import budgets
from accounts.caller import TokenBudget
from common.errors import RateLimitExceeded
from common.redis import close_async_redis, sync_redis

KEY_ID = 7


async def call(name: str, budget: TokenBudget) -> tuple[int, int]:
    """One request: (what it took, what Redis told to be used when it was admitted).

    It comes again while others may still give something back.
    """
    asked = random.randint(20, 200)
    while True:
        try:
            standing = await budgets.reserve(KEY_ID, budget, {name: asked}, seconds=60)
            break
        except RateLimitExceeded as refused:
            if refused.details["reserved"] == 0:
                return 0, 0
            await asyncio.sleep(random.random() / 10)
    await asyncio.sleep(random.random() / 20)
    took = random.randint(0, asked)
    with sync_redis().pipeline(transaction=False) as pipe:
        for _ in range(2):  # a second time changes nothing
            budgets.settle_in(pipe, {name: took})
        await asyncio.to_thread(pipe.execute)
    return took, standing.used


async def overdraw(tokens: int, calls: int) -> None:
    name = f"{random.random()}"
    answers = await asyncio.gather(*(call(f"{name}-{i}", TokenBudget(tokens, 3600)) for i in range(calls)))
    await close_async_redis()
    print(json.dumps({"took": sum(took for took, _ in answers), "most": max(used for _, used in answers)}))


if __name__ == "__main__":
    settings.REDIS_URL = sys.argv[1]
    asyncio.run(overdraw(int(sys.argv[2]), int(sys.argv[3])))
