"""The gateway's own rules, with the test in the worker's place."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from pytest_django import Settings

from common.errors import BackendUnavailable, InferenceFailed, InvalidInput
from engine.messages import Accepted, Delta, Failed, Finished, Generate
from engine.params import SamplingParams
from inference import gateway as gateway_module
from inference.calls import Call, Event
from inference.gateway import Gateway
from inference.timeline import stages
from tests.inference.fakes import FakeTransport, worker


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
async def road(transport: FakeTransport, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setattr(gateway_module, "BEAT_SECONDS", 0.02)
    gateway = Gateway(transport)
    yield gateway
    await gateway.aclose()


async def submit(road: Gateway, count: int = 1, seconds: float = 30.0) -> list[Call]:
    requests = [Generate(road.new_id("req_x"), SamplingParams(), text="hi") for _ in range(count)]
    return await road.submit(requests, request_id="req_x", kind="infer", model_id="m", seconds=seconds)


def end(request_id: str, text: str = "all") -> Finished:
    return Finished(request_id, text, "", "stop", 1, 2, 0, 0.0, 0.0, 0.0)


async def cancels(transport: FakeTransport) -> list[str]:
    await asyncio.sleep(0.01)
    return [cancel.reason for cancel in transport.cancels]


async def test_events_come_back_in_order_and_end_once(road: Gateway, transport: FakeTransport) -> None:
    (call,) = await submit(road)
    rid = call.request_id
    transport.tell(Accepted(rid, 3), Delta(rid, "a", 1))
    transport.tell(Delta(rid, "b", 2), end(rid, "ab"), Delta(rid, "late", 3), end(rid, "late"))
    await call.accepted()

    assert (await call.result()).text == "ab"
    assert call.ended
    road.close(call)
    assert await cancels(transport) == []
    assert road.in_flight == 0


async def test_a_refusal_of_the_engine_is_raised_while_waiting_for_acceptance(
    road: Gateway, transport: FakeTransport
) -> None:
    (call,) = await submit(road)
    transport.tell(Failed(call.request_id, "INVALID_INPUT", "too long", {"field": "text"}))

    with pytest.raises(InvalidInput) as caught:
        await call.accepted()

    assert caught.value.details == {"field": "text"}


async def test_closing_a_running_call_cancels_it(road: Gateway, transport: FakeTransport) -> None:
    (call,) = await submit(road)
    road.close(call)

    assert await cancels(transport) == ["disconnected"]
    assert transport.cancels[0].request_ids == (call.request_id,)


async def test_a_deadline_fails_and_cancels(road: Gateway, transport: FakeTransport) -> None:
    (call,) = await submit(road, seconds=0.05)

    with pytest.raises(InferenceFailed) as caught:
        await call.result()

    assert caught.value.details == {"timeout": 0.05}
    assert await cancels(transport) == ["timeout"]


async def test_a_reader_too_far_behind_is_dropped(road: Gateway, transport: FakeTransport, settings: Any) -> None:
    settings.STREAM_BUFFER_EVENTS = 16
    (call,) = await submit(road)
    transport.tell(Accepted(call.request_id, 1), *(Delta(call.request_id, "x", n) for n in range(17)))

    with pytest.raises(InferenceFailed, match="too slowly"):
        await call.result()

    assert await cancels(transport) == ["slow_reader"]


async def test_a_lost_worker_fails_what_it_held(road: Gateway, transport: FakeTransport) -> None:
    calls = await submit(road, count=2)
    transport.tell(Accepted(calls[0].request_id, 1))
    await calls[0].accepted()
    transport.alive = [worker("w2")]

    for call in calls:
        with pytest.raises(InferenceFailed, match="lost"):
            await call.result()
    await asyncio.sleep(0.05)
    told = [msgspec.to_builtins(loss.event) for loss in transport.losses]
    assert [(event["event"], event["item"], event["code"]) for event in told] == [
        ("inference_failed", 0, "INFERENCE_FAILED"),
        ("inference_failed", 1, "INFERENCE_FAILED"),
    ]
    assert await cancels(transport) == ["worker_lost"] * 2


async def test_a_lost_worker_s_requests_are_recorded_with_what_is_known(
    road: Gateway, transport: FakeTransport
) -> None:
    accepted, waiting = await submit(road, count=2)
    transport.tell(Accepted(accepted.request_id, 7))
    await accepted.accepted()
    transport.alive = [worker("w2")]
    for call in (accepted, waiting):
        with pytest.raises(InferenceFailed, match="lost"):
            await call.result()
    await asyncio.sleep(0.05)

    first, second = (loss.record for loss in transport.losses)
    assert (first.request_id, first.item, first.state, first.error_code) == ("req_x", 0, "failed", "INFERENCE_FAILED")
    assert (first.worker, first.backend, first.model, first.kind) == ("host/cpu", "cpu", "m", "infer")
    assert (first.prompt_tokens, second.prompt_tokens) == (7, 0)
    assert [stage.name for stage in stages(first)][-1] == "engine"
    assert [stage.name for stage in stages(second) if stage.seconds > 0][-1] == "dispatch"
    assert 0 < first.accept_time < first.total_time < 5


async def test_a_job_that_the_successor_has_begun_goes_on(road: Gateway, transport: FakeTransport) -> None:
    (call,) = await submit(road)
    transport.alive = [worker("w2")]
    transport.claimed = {call.job_id: "w2"}
    await asyncio.sleep(0.1)
    transport.tell(Accepted(call.request_id, 1), end(call.request_id), worker_id="w2")

    assert (await call.result()).text == "all"


async def test_a_job_that_nobody_has_begun_goes_to_another_worker(road: Gateway, transport: FakeTransport) -> None:
    calls = await submit(road, count=2)
    _, sent, _ = await transport.jobs.get()
    transport.alive = [worker("w2", queue="device.other.cpu")]

    queue, moved, _ = await asyncio.wait_for(transport.jobs.get(), 5)

    assert (queue, moved) == ("device.other.cpu", sent)
    transport.tell(*(Accepted(call.request_id, 1) for call in calls), worker_id="w2")
    road.close(calls[0])
    transport.tell(end(calls[1].request_id), worker_id="w2")
    assert (await calls[1].result()).text == "all"
    assert await cancels(transport) == ["disconnected"]


async def test_a_job_that_can_go_nowhere_fails_clearly(road: Gateway, transport: FakeTransport) -> None:
    (call,) = await submit(road)
    transport.alive = []

    with pytest.raises(BackendUnavailable, match="No worker"):
        await call.result()


async def test_a_model_that_nobody_has_is_demanded_once_for_all_who_want_it(
    road: Gateway, transport: FakeTransport
) -> None:
    transport.alive = [worker("w1", loaded="another"), worker("w2", loaded="another")]

    calls = [call for calls in await asyncio.gather(*(submit(road) for _ in range(5))) for call in calls]

    assert transport.demanded == ["m"]
    assert {call.worker_id for call in calls} == {"w1"}


async def test_without_autoload_it_demands_nothing(road: Gateway, transport: FakeTransport, settings: Settings) -> None:
    settings.AUTOLOAD = False
    transport.alive = [worker("w1", loaded="another")]

    with pytest.raises(BackendUnavailable, match="No worker can run"):
        await submit(road)
    assert transport.demanded == []


async def test_the_least_busy_of_the_replicas_gets_the_request(road: Gateway, transport: FakeTransport) -> None:
    transport.alive = [worker("w1"), worker("w2", queue="device.host.cuda1"), worker("w3", loaded="another")]

    for _ in range(4):
        await submit(road)

    queues = [(await transport.jobs.get())[0] for _ in range(4)]
    assert sorted(queues) == ["device.host.cpu"] * 2 + ["device.host.cuda1"] * 2


async def test_the_wait_for_acceptance_can_be_left(road: Gateway, transport: FakeTransport) -> None:
    (call,) = await submit(road)

    await call.accepted(0.05)

    assert call.accepted_at is None
    transport.tell(Accepted(call.request_id, 1), end(call.request_id))
    assert (await call.result()).text == "all"


async def test_a_lost_frame_fails_what_that_worker_held(road: Gateway, transport: FakeTransport) -> None:
    (call,) = await submit(road)
    transport.tell(Accepted(call.request_id, 1))
    transport.tell(Delta(call.request_id, "x", 1), skip=1)

    with pytest.raises(InferenceFailed, match="lost"):
        await call.result()


async def test_a_frame_sent_twice_counts_once(road: Gateway, transport: FakeTransport) -> None:
    (call,) = await submit(road)
    transport.tell(Accepted(call.request_id, 1), Delta(call.request_id, "a", 1))
    transport.frames.put_nowait(transport.frames._queue[0])  # type: ignore[attr-defined]
    transport.tell(end(call.request_id))
    await call.accepted()
    events: list[Event] = []
    while not call.ended or not events or not isinstance(events[-1], Finished):
        events += await call.drain()

    assert [event.text for event in events if isinstance(event, Delta)] == ["a"]


async def test_a_lost_stream_fails_everything(road: Gateway, transport: FakeTransport) -> None:
    (call,) = await submit(road)
    transport.kept = False

    with pytest.raises(InferenceFailed):
        await call.result()


async def test_a_cancellation_that_a_library_swallows_is_not_lost(
    road: Gateway, transport: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = asyncio.Event()

    async def forgetful(*_: Any) -> None:
        entered.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)

    monkeypatch.setattr(transport, "submit", forgetful)
    submitting = asyncio.ensure_future(submit(road))
    await entered.wait()
    submitting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await submitting
    assert await cancels(transport) == ["disconnected"]
    assert road.in_flight == 0


async def test_it_says_at_once_that_no_worker_lives(road: Gateway, transport: FakeTransport) -> None:
    transport.alive = []

    with pytest.raises(BackendUnavailable) as caught:
        await submit(road)

    assert caught.value.retry_after


async def test_a_worker_seen_just_now_is_used_at_once(road: Gateway, transport: FakeTransport) -> None:
    transport.alive = []
    with pytest.raises(BackendUnavailable):
        await submit(road)
    transport.alive = [worker("w9", loaded="")]

    (call,) = await submit(road)

    assert call.worker_id == "w9"


async def test_a_full_queue_leaves_nothing_behind(road: Gateway, transport: FakeTransport) -> None:
    transport.full = True

    with pytest.raises(BackendUnavailable):
        await submit(road)

    assert road.in_flight == 0
    assert transport.jobs.empty()
    assert await cancels(transport) == []


async def test_a_draining_worker_gets_nothing_new(road: Gateway, transport: FakeTransport) -> None:
    from msgspec.structs import replace

    transport.alive = [replace(worker("w1"), draining=True), worker("w2", loaded="")]

    (call,) = await submit(road)

    assert call.worker_id == "w2"


async def test_ids_are_unique_though_clients_repeat_theirs(road: Gateway) -> None:
    first, second = road.new_id("req_same"), road.new_id("req_same")

    assert first != second
    assert first.startswith("req_same~")


async def test_closing_the_gateway_ends_every_call(transport: FakeTransport) -> None:
    gateway = Gateway(transport)
    (call,) = await submit(gateway)
    waiting = asyncio.ensure_future(call.result())
    await asyncio.sleep(0)
    await gateway.aclose()

    with pytest.raises(Exception, match="shutting down"):
        await waiting


async def test_a_request_that_could_not_be_published_gives_its_place_back(
    road: Gateway, transport: FakeTransport
) -> None:
    transport.broken = True
    with pytest.raises(BackendUnavailable):
        await submit(road)
    assert await cancels(transport) == ["lost"]
    assert road.in_flight == 0


async def test_an_answer_that_breaks_something_does_not_stop_the_reader(
    road: Gateway, transport: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    (call,) = await submit(road)
    dispatch = road._dispatch

    def fail_once(_frame: object) -> None:
        monkeypatch.setattr(road, "_dispatch", dispatch)
        raise ValueError("unforeseen")

    monkeypatch.setattr(road, "_dispatch", fail_once)
    transport.tell(Accepted("nobody", 1))
    transport.tell(Accepted(call.request_id, 1), end(call.request_id))
    with contextlib.suppress(InferenceFailed):  # the frame before was lost, and that may be told
        await asyncio.wait_for(call.result(), 5)
    assert call.ended
    road.close(call)


async def test_bursts_are_shared_out_before_the_workers_tell_of_them(road: Gateway, transport: FakeTransport) -> None:
    transport.alive = [worker("w1"), worker("w2")]
    calls = [(await submit(road))[0] for _ in range(6)]
    assert sorted(call.worker_id for call in calls) == ["w1"] * 3 + ["w2"] * 3
    road.close(*calls)


async def test_a_shortcut_takes_deltas_while_somebody_waits_and_nothing_else(
    road: Gateway, transport: FakeTransport
) -> None:
    (call,) = await submit(road)
    taken: list[str] = []
    call.shortcut = lambda delta: not taken.append(delta.text) and delta.text != "full"  # type: ignore[func-returns-value]
    rid = call.request_id
    transport.tell(Accepted(rid, 3), Delta(rid, "a", 1))
    await call.accepted()
    await asyncio.sleep(0.01)

    assert (taken, [event.text for event in await call.drain() if isinstance(event, Delta)]) == ([], ["a"])

    waiting = asyncio.create_task(call.drain())
    await asyncio.sleep(0)
    transport.tell(Delta(rid, "b", 2), Delta(rid, "full", 3), Delta(rid, "c", 4), end(rid))
    events = await waiting

    assert taken == ["b", "full"]  # what comes after a refused one waits behind it
    assert [event.text for event in events] == ["full", "c", "all"]
    assert call.ended
