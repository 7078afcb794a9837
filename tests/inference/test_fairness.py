"""A saturated worker: premium work goes first, and standard work still has its fifth of the turns."""

import asyncio
from collections import defaultdict
from pathlib import Path

import httpx
import pytest

from tests.inference.conftest import EchoServer
from tests.running_server import running_server
from tests.server_keys import make_keys

BODY = {"text": "a b", "max_tokens": 10}  # a tenth of a second
ENDS = 200
CALLERS = {"premium": 24, "standard": 12}


async def ends_of(server: EchoServer, keys: dict[str, str]) -> tuple[list[str], dict[str, list[float]]]:
    """Whose requests ended, in order, while each caller always has one waiting; and how long each one's took."""
    order: list[str] = []
    seconds: dict[str, list[float]] = defaultdict(list)

    async def caller(client: httpx.AsyncClient, tier: str) -> None:
        while len(order) < ENDS:
            answer = await client.post("/infer", json=BODY, headers={"Authorization": f"Bearer {keys[tier]}"})
            assert answer.status_code == 200, answer.text
            order.append(tier)
            seconds[tier].append(answer.elapsed.total_seconds())

    async with server.client() as client:
        await asyncio.gather(*(caller(client, tier) for tier, count in CALLERS.items() for _ in range(count)))
    return order, seconds


@pytest.mark.parametrize(
    ("where", "settings"),
    [
        ("broker", {"LLAMA_GPU_WORKER_THREADS": "4"}),
        ("engine", {"LLAMA_GPU_MAX_SEQUENCES": "4"}),
    ],
)
async def test_standard_requests_get_a_fifth_under_steady_premium_load(
    where: str, settings: dict[str, str], tmp_path: Path
) -> None:
    with running_server(tmp_path, LLAMA_GPU_DEFAULT_MODEL="echo", LLAMA_GPU_ECHO_DELAY="0.01", **settings) as running:
        tiers = [{"tier": tier, "name": tier} for tier in CALLERS]
        keys = dict(zip(CALLERS, make_keys(running, *tiers), strict=True))
        order, seconds = await ends_of(EchoServer(running), keys)
    middle = order[20:ENDS]  # from when all wait until the first one stops
    assert 0.16 <= middle.count("standard") / len(middle) <= 0.24
    mean = {tier: sum(times) / len(times) for tier, times in seconds.items()}
    assert mean["premium"] < mean["standard"] / 1.5
