"""What was reserved for a request that never reached a worker is given back at once, however it failed."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from accounts import budgets
from accounts.caller import Caller, TokenBudget
from common.errors import BackendUnavailable
from inference import services
from inference.bodies import parse_infer
from inference.gateway import Gateway
from inference.messages import Job
from inference.services import Origin
from models_mgmt.services import ensure_model
from tests.inference.fakes import FakeTransport

pytestmark = pytest.mark.django_db(transaction=True)
KEY, BUDGET = 7, TokenBudget(10_000, 3600)


class StuckTransport(FakeTransport):
    """Publishes nothing, until it fails or its caller goes."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self.failure: Exception | None = None

    async def submit(self, queue: str, job: Job, priority: int, seconds: float) -> None:
        self.reached.set()
        if self.failure is not None:
            raise self.failure
        await asyncio.Event().wait()


@pytest.fixture
async def transport(clean_redis: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StuckTransport]:
    await asyncio.to_thread(ensure_model, id="m", name="M", source_kind="echo", is_default=True)
    stuck = StuckTransport()
    road = Gateway(stuck)
    monkeypatch.setattr(services, "gateway", lambda: road)
    yield stuck
    await road.aclose()


def asked() -> "asyncio.Task[object]":
    caller = Caller("key:7", frozenset({"read", "write"}), user_id=1, key_id=KEY, budget=BUDGET)
    request = parse_infer({"text": "one two", "max_tokens": 100})
    return asyncio.create_task(
        services.infer(request=request, origin=Origin(caller=caller, request_id="req_1", kind="infer", headers={}))
    )


async def reserved() -> int:
    return (await budgets.standing(KEY, BUDGET)).used


async def test_a_client_that_leaves_before_the_request_is_queued_costs_nothing(transport: StuckTransport) -> None:
    task = asked()
    await asyncio.wait_for(transport.reached.wait(), 5)
    assert await reserved() > 100
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await reserved() == 0


@pytest.mark.parametrize("failure", [BackendUnavailable("full", retry_after=2), RuntimeError("a mistake of ours")])
async def test_a_failure_to_queue_costs_nothing(transport: StuckTransport, failure: Exception) -> None:
    transport.failure = failure
    with pytest.raises(type(failure)):
        await asked()
    assert transport.reached.is_set()
    assert await reserved() == 0
