"""Asking for loads and unloads: rows, messages, and who finds what. The workers are announced by the test."""

import asyncio
from collections.abc import Sequence
from typing import Any

import kombu.exceptions
import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.db.models.functions import Now
from pytest_django import Settings

from common.errors import BackendUnavailable, InsufficientMemory, InvalidInput, ModelLoadFailed
from common.event_reader import read_events
from common.events import ModelLoaded, ModelLost
from common.redis import sync_redis
from engine.messages import Ready
from models_mgmt import deployments, upkeep
from models_mgmt.deployments import (
    LOAD_TASK,
    UNLOAD_DELETED_TASK,
    UNLOAD_TASK,
    LoadOptions,
    demand,
    load,
    request_load,
    unload,
)
from models_mgmt.device_memory import DeviceMemory
from models_mgmt.models import Deployment, Model
from models_mgmt.placement import Asked, DeviceFacts, Placement
from models_mgmt.placement import place as place_all
from models_mgmt.presence import DeploymentReport, WorkerReport, announce, live_workers, queue_name, withdraw

pytestmark = pytest.mark.django_db(transaction=True)

GB = 1024**3
State, Origin = Deployment.State, Deployment.Origin
Sent = list[tuple[str, str, tuple[Any, ...]]]


def ready(memory_bytes: int = GB) -> Ready:
    return Ready("cpu", "Llama", 1, 1, 128, "bf16", False, memory_bytes, 0, 32, 0.5)


def announced(
    place: str = "a/cpu", *, free: int = 8 * GB, loaded: dict[str, float] | None = None, state: Any = "loaded"
) -> WorkerReport:
    """A live worker; `loaded`: models with the seconds since their last request."""
    host, device = place.split("/")
    report = WorkerReport(
        worker_id=f"worker-{host}-{device}",
        host=host,
        device=device,
        backend=device.rstrip("0123456789"),
        queue=queue_name(host, device),
        pid=1,
        started_at=0.0,
        memory=DeviceMemory(16 * GB, free),
        deployments=tuple(
            DeploymentReport(model_id=model_id, state=state, ready=ready(), idle_seconds=idle)
            for model_id, idle in (loaded or {}).items()
        ),
    )
    announce(report)
    return report


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What was put into control queues: task, queue, arguments."""
    messages: Sent = []

    def send_task(name: str, arguments: Sequence[Any], *, queue: str, **_: Any) -> None:
        messages.append((name, queue, tuple(arguments)))

    monkeypatch.setattr(deployments.current_app, "send_task", send_task)
    return messages


@pytest.fixture(autouse=True)
async def redis(clean_redis: str, settings: Settings) -> str:
    settings.WORKER_LOST_SECONDS = 60.0  # nobody announces the workers again
    return clean_redis


@pytest.fixture
def model() -> Model:
    return Model.objects.create(id="m", name="M", source_kind="echo")


def facts_of_placements(monkeypatch: pytest.MonkeyPatch) -> list[DeviceFacts]:
    """What each placement was told of the first device."""
    told: list[DeviceFacts] = []

    def place(asked: Asked, fleet: Sequence[DeviceFacts]) -> tuple[Placement, ...]:
        told.append(fleet[0])
        return place_all(asked, fleet)

    monkeypatch.setattr(deployments, "place", place)
    return told


def settle(row: Deployment, state: str, **fields: Any) -> None:
    """What the worker would write."""
    Deployment.objects.filter(pk=row.pk).update(state=state, changed_at=Now(), **fields)


def test_a_load_is_a_row_and_a_message_to_the_devices_worker(model: Model, sent: Sent) -> None:
    announced("a/cuda0")

    requested = request_load(model, LoadOptions(quantization="int8", context_length=64))

    (row,) = requested.deployments
    assert (row.host, row.device, row.devices, row.state) == ("a", "cuda0", ["cuda0"], State.REQUESTED)
    assert (row.quantization, row.context_length, row.origin) == ("int8", 64, Origin.ASKED)
    assert sent == [(LOAD_TASK, "control.a.cuda0", (row.pk,))]


def test_who_asks_for_the_same_model_finds_the_same_row(model: Model, sent: Sent) -> None:
    announced("a/cpu")
    announced("b/cpu")

    first, second = (request_load(model, LoadOptions()) for _ in range(2))

    assert first.ids == second.ids
    assert len(sent) == 1


def test_a_loaded_model_stays_as_it_is(model: Model, sent: Sent) -> None:
    announced()
    (row,) = request_load(model, LoadOptions()).deployments
    settle(row, State.LOADED)

    again = request_load(model, LoadOptions(quantization="int4"))

    assert again.ids == ()
    assert again.deployments[0].quantization == row.quantization
    assert len(sent) == 1


def test_missing_replicas_are_added_to_those_that_are_there(model: Model, sent: Sent) -> None:
    for place in ("a/cuda0", "a/cuda1", "b/cuda0"):
        announced(place)
    request_load(model, LoadOptions())
    assert len(request_load(model, LoadOptions(replicas=3)).deployments) == 3
    assert len({queue for _, queue, _ in sent}) == 3


def test_a_device_that_lacks_the_model_gets_it_when_it_is_asked_for(model: Model, sent: Sent) -> None:
    announced("a/cuda0")
    request_load(model, LoadOptions())
    announced("a/cuda1")

    request_load(model, LoadOptions(devices=("cuda1",)))
    request_load(model, LoadOptions(devices=("a/cuda1",)))

    assert [queue for _, queue, _ in sent] == ["control.a.cuda0", "control.a.cuda1"]


def test_models_that_are_about_to_be_loaded_keep_their_room(model: Model, sent: Sent) -> None:
    another = Model.objects.create(id="n", name="N", source_kind="echo")
    announced("a/cpu", free=3 * GB)
    announced("b/cpu", free=8 * GB)
    (row,) = request_load(model, LoadOptions()).deployments
    assert row.host == "a"
    Deployment.objects.update(estimated_bytes=3 * GB)

    facts = deployments.fleet_facts([announced("a/cpu", free=3 * GB)], rows=Deployment.objects.select_related("model"))

    assert facts[0].room == 0
    assert another.pk not in {held.model_id for held in facts[0].held}


def test_the_room_of_what_was_just_unloaded_counts_before_its_worker_says_so(
    model: Model, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_of_placements(monkeypatch)
    held = Model.objects.create(id="held", name="H", source_kind="echo")
    announced(loaded={"held": 1.0})
    (row,) = request_load(held, LoadOptions()).deployments

    for state, leaving in ((State.LOADED, False), (State.UNLOADING, True), (State.UNLOADED, True)):
        settle(row, state)
        request_load(model, LoadOptions())
        Deployment.objects.filter(model=model).delete()
        assert [(item.model_id, item.leaving) for item in facts[-1].held] == [("held", leaving)]


def test_what_was_just_loaded_is_known_before_its_worker_says_so(
    model: Model, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_of_placements(monkeypatch)
    held = Model.objects.create(id="held", name="H", source_kind="echo", pinned=True)
    announced()
    (row,) = request_load(held, LoadOptions()).deployments
    settle(row, State.LOADED, estimated_bytes=2 * GB)

    request_load(model, LoadOptions())

    assert facts[-1].reserved_bytes == 2 * GB
    (found,) = facts[-1].held
    assert (found.model_id, found.size, found.busy, found.pinned) == ("held", 2 * GB, True, True)


@pytest.mark.parametrize(("state", "taken"), [(State.REQUESTED, 0), (State.LOADING, 0), (State.LOADING, 5 * GB)])
def test_a_second_model_goes_elsewhere_while_the_first_one_is_being_loaded(
    model: Model, sent: Sent, state: str, taken: int
) -> None:
    announced("a/cuda0", free=16 * GB)
    (row,) = request_load(model, LoadOptions()).deployments
    settle(row, state, estimated_bytes=12 * GB)
    loading = DeploymentReport(model_id="m", state="loading", device_bytes={"cuda0": taken})
    workers = [
        msgspec.structs.replace(announced("a/cuda0", free=16 * GB - taken), deployments=(loading,)),
        announced("a/cuda1", free=16 * GB),
    ]

    facts = deployments.fleet_facts(workers, rows=Deployment.objects.select_related("model"))

    assert [fact.room for fact in facts] == [4 * GB, 16 * GB]
    (placement,) = place_all(Asked("n", needs=lambda kind: 12 * GB), facts)
    assert placement.device == "cuda1"


def test_more_context_than_the_model_has_is_refused(model: Model, sent: Sent) -> None:
    announced()
    model.context_length = 2048
    with pytest.raises(InvalidInput, match="has 2048 tokens") as caught:
        request_load(model, LoadOptions(context_length=100_000))
    assert caught.value.details == {"model": "m", "context_length": 2048, "field": "context_length"}
    assert not Deployment.objects.exists()
    assert request_load(model, LoadOptions(context_length=2048)).ids


def test_a_model_of_no_gguf_file_has_no_quantization_of_its_own(model: Model, sent: Sent) -> None:
    announced()
    with pytest.raises(InvalidInput) as caught:
        request_load(model, LoadOptions(quantization="gguf"))
    assert caught.value.details["field"] == "quantization"
    assert sent == []


def test_engines_of_deleted_models_are_told_to_end(model: Model, sent: Sent) -> None:
    announced("a/cpu", loaded={"m": 1.0, "deleted": 1.0})
    announced("b/cpu", loaded={"deleted": 1.0}, state="loading")
    announced("c/cpu", loaded={"deleted": 1.0}, state="failed")

    upkeep.unload_deleted()

    assert sorted(sent) == [
        (UNLOAD_DELETED_TASK, "control.a.cpu", ("deleted",)),
        (UNLOAD_DELETED_TASK, "control.b.cpu", ("deleted",)),
    ]


def test_without_a_worker_nothing_is_loaded(model: Model, sent: Sent) -> None:
    with pytest.raises(BackendUnavailable, match="No worker"):
        request_load(model, LoadOptions())
    assert not Deployment.objects.exists()


def test_a_broken_model_is_not_loaded_again_for_every_request_but_for_an_administrator(
    model: Model, sent: Sent
) -> None:
    announced()
    (row,) = request_load(model, LoadOptions(origin=Origin.DEMAND)).deployments
    settle(row, State.FAILED, error_code="MODEL_LOAD_FAILED", error="The file ends too early.")

    with pytest.raises(ModelLoadFailed, match="The file ends too early"):
        request_load(model, LoadOptions(origin=Origin.DEMAND))

    assert request_load(model, LoadOptions()).ids == (row.pk,)


def test_a_broken_model_is_tried_again_for_requests_after_a_while(model: Model, sent: Sent, settings: Settings) -> None:
    announced()
    (row,) = request_load(model, LoadOptions(origin=Origin.DEMAND)).deployments
    settle(row, State.FAILED, error_code="MODEL_LOAD_FAILED", error="The file ends too early.")
    settings.LOAD_RETRY_SECONDS = 0.0
    assert request_load(model, LoadOptions(origin=Origin.DEMAND)).ids == (row.pk,)


async def test_a_load_is_answered_when_it_is_done(model: Model, sent: Sent) -> None:
    announced()
    loading = asyncio.ensure_future(load(model, LoadOptions()))
    await until(lambda: bool(sent))
    row = await Deployment.objects.aget()
    await sync_to_async(settle)(row, State.LOADED, measured_bytes=GB)

    (done,) = await loading

    assert done.measured_bytes == GB


async def test_a_failed_load_raises_what_the_worker_has_written(model: Model, sent: Sent) -> None:
    announced()
    loading = asyncio.ensure_future(load(model, LoadOptions()))
    await until(lambda: bool(sent))
    row = await Deployment.objects.aget()
    await sync_to_async(settle)(
        row, State.FAILED, error_code="INSUFFICIENT_MEMORY", error="Too much.", error_details={"needed_bytes": 7}
    )

    with pytest.raises(InsufficientMemory, match="Too much") as caught:
        await loading
    assert caught.value.details == {"needed_bytes": 7}


async def test_a_load_ends_with_its_worker(model: Model, sent: Sent, settings: Settings) -> None:
    settings.WORKER_LOST_SECONDS = 0.1
    await sync_to_async(announced)()
    loading = asyncio.ensure_future(load(model, LoadOptions()))
    await until(lambda: bool(sent))
    await asyncio.sleep(0.3)
    for _ in range(2):
        await sync_to_async(upkeep.mark_lost)()

    with pytest.raises(ModelLoadFailed, match="worker was lost"):
        await loading


async def test_a_demand_names_the_worker_that_has_or_loads_the_model(model: Model, sent: Sent) -> None:
    announced("a/cpu")
    assert await demand("m") == "worker-a-cpu"
    assert await demand("m") == "worker-a-cpu"
    assert len(sent) == 1


async def test_an_unload_tells_each_worker_and_adds_up_what_they_freed(model: Model, sent: Sent) -> None:
    for place in ("a/cuda0", "a/cuda1"):
        announced(place)
    rows = (await sync_to_async(request_load)(model, LoadOptions(replicas=2))).deployments
    for row in rows:
        await sync_to_async(settle)(row, State.LOADED)
    sent.clear()
    unloading = asyncio.ensure_future(unload(model, force=True))
    await until(lambda: len(sent) == 2)
    assert {name for name, *_ in sent} == {UNLOAD_TASK}
    for _, _, (_, ticket, force, reason, only_if_idle_for) in sent:
        assert (force, reason, only_if_idle_for) == (True, "asked", None)
        sync_redis().set(deployments.ticket_key(ticket), GB)

    done = await unloading

    assert (done.was_loaded, done.freed_bytes, sorted(done.places)) == (True, 2 * GB, ["a/cuda0", "a/cuda1"])


async def unloading_of(model: Model, sent: Sent) -> tuple[Deployment, "asyncio.Task[deployments.Unloaded]"]:
    await sync_to_async(announced)()
    (row,) = (await sync_to_async(request_load)(model, LoadOptions())).deployments
    await sync_to_async(settle)(row, State.LOADED)
    sent.clear()
    unloading = asyncio.ensure_future(unload(model))
    await until(lambda: bool(sent))
    return row, unloading


async def test_an_unload_whose_worker_was_replaced_is_told_so(model: Model, sent: Sent) -> None:
    _, unloading = await unloading_of(model, sent)
    before = (await sync_to_async(live_workers)())[0]
    await sync_to_async(withdraw)(before)
    await sync_to_async(announce)(msgspec.structs.replace(before, worker_id="another"))

    with pytest.raises(BackendUnavailable, match="worker was lost"):
        await asyncio.wait_for(unloading, 5)


async def test_an_unload_that_takes_too_long_is_told_so(model: Model, sent: Sent, settings: Settings) -> None:
    settings.LOAD_TIMEOUT = 0.3
    _, unloading = await unloading_of(model, sent)

    with pytest.raises(BackendUnavailable, match="with force"):
        await asyncio.wait_for(unloading, 5)


async def test_an_unload_ends_by_its_row_when_what_the_worker_told_was_lost(model: Model, sent: Sent) -> None:
    row, unloading = await unloading_of(model, sent)
    await sync_to_async(settle)(row, State.UNLOADED)

    assert (await asyncio.wait_for(unloading, 10)).freed_bytes == 0


async def test_an_unload_of_what_is_not_loaded_does_nothing(model: Model, sent: Sent) -> None:
    announced()
    assert (await unload(model)).was_loaded is False
    assert sent == []


async def test_an_unload_of_what_was_lost_or_has_failed_says_that_it_is_not_wanted(model: Model, sent: Sent) -> None:
    announced("a/cpu")
    for host, state in (("a", State.FAILED), ("b", State.LOST), ("c", State.LOADED)):
        await Deployment.objects.acreate(model=model, host=host, device="cpu", devices=["cpu"], state=state)
    assert (await unload(model)).was_loaded is False
    assert sent == []
    assert {row.state async for row in Deployment.objects.all()} == {State.UNLOADED}


def test_an_unload_that_could_not_be_sent_leaves_the_row_as_it_was(
    model: Model, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise kombu.exceptions.OperationalError

    announced()
    (row,) = request_load(model, LoadOptions()).deployments
    settle(row, State.LOADED)
    monkeypatch.setattr(deployments.current_app, "send_task", unreachable)

    with pytest.raises(BackendUnavailable, match="queue can't be reached"):
        deployments.request_unload(model)

    row.refresh_from_db()
    assert row.state == State.LOADED


def test_deployments_of_a_lost_worker_are_called_lost_and_told_of(model: Model, sent: Sent, clean_redis: str) -> None:
    announced("a/cpu")
    (row,) = request_load(model, LoadOptions()).deployments
    settle(row, State.LOADED)
    upkeep.mark_lost()
    row.refresh_from_db()
    assert row.state == State.LOADED

    sync_redis().flushdb()
    upkeep.mark_lost()
    row.refresh_from_db()
    assert row.state == State.LOADED  # missed once
    upkeep.mark_lost()
    upkeep.mark_lost()

    row.refresh_from_db()
    assert (row.state, row.error) == (State.LOST, "Its worker was lost.")
    assert asyncio.run(_events()) == [ModelLost(model="m", host="a", device="cpu", error="Its worker was lost.")]


def test_a_worker_missed_now_and_then_is_not_lost(model: Model, sent: Sent) -> None:
    worker = announced()
    (row,) = request_load(model, LoadOptions()).deployments
    settle(row, State.LOADED)
    for _ in range(2):
        withdraw(worker)
        upkeep.mark_lost()
        announce(worker)
        upkeep.mark_lost()
    row.refresh_from_db()
    assert row.state == State.LOADED


@pytest.mark.parametrize("state", ["loading", "loaded"])
def test_what_a_worker_held_all_the_while_is_its_own_again(
    model: Model, sent: Sent, clean_redis: str, state: str
) -> None:
    worker = announced(loaded={"m": 0.0}, state=state)
    (row,) = request_load(model, LoadOptions()).deployments
    settle(row, State.LOST, error="Its worker was lost.")

    upkeep.mark_lost()

    row.refresh_from_db()
    assert (row.state, row.error) == (state, "")
    assert [type(event) for event in asyncio.run(_events())] == [ModelLoaded]
    withdraw(worker)


def test_a_model_that_is_lost_by_mistake_only_is_not_loaded_twice(model: Model, sent: Sent) -> None:
    announced("a/cpu")
    (row,) = request_load(model, LoadOptions()).deployments
    settle(row, State.LOST)
    announced("a/cpu", free=GB, loaded={"m": 0.0})
    announced("b/cpu", free=2 * GB)

    assert request_load(model, LoadOptions()).ids == ()
    assert Deployment.objects.count() == len(sent) == 1


def test_a_load_whose_message_was_lost_is_sent_again(model: Model, sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    announced()
    (row,) = request_load(model, LoadOptions()).deployments
    upkeep.send_again()
    assert len(sent) == 1
    monkeypatch.setattr(upkeep, "_FORGOTTEN", -upkeep._FORGOTTEN)
    upkeep.send_again()
    assert sent[1] == (LOAD_TASK, "control.a.cpu", (row.pk,))


def test_a_load_that_waits_is_sent_again_now_and_then_only(model: Model, sent: Sent) -> None:
    announced()
    request_load(model, LoadOptions())
    Deployment.objects.update(changed_at=Now() - 2 * upkeep._FORGOTTEN)
    for _ in range(3):
        upkeep.send_again()
    assert len(sent) == 2


def test_idle_models_are_unloaded_and_pinned_or_used_ones_are_not(model: Model, sent: Sent, settings: Settings) -> None:
    settings.KEEP_ALIVE = 60
    Model.objects.create(id="pinned", name="P", source_kind="echo", pinned=True)
    Model.objects.create(id="used", name="U", source_kind="echo")
    for row in Model.objects.all():
        Deployment.objects.create(model=row, host="a", device="cpu", devices=["cpu"], state=State.LOADED)
    announced(loaded={"m": 61.0, "pinned": 1000.0, "used": 3.0})

    upkeep.unload_idle()

    ((name, queue, (pk, _, force, reason, only_if_idle_for)),) = sent
    assert (name, queue, pk) == (UNLOAD_TASK, "control.a.cpu", Deployment.objects.get(model=model).pk)
    assert (force, reason, only_if_idle_for) == (False, "idle", 60)


def test_idle_models_stay_when_the_setting_says_so(model: Model, sent: Sent, settings: Settings) -> None:
    settings.KEEP_ALIVE = 0
    Deployment.objects.create(model=model, host="a", device="cpu", state=State.LOADED)
    announced(loaded={"m": 1e6})
    upkeep.unload_idle()
    assert sent == []


async def until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("not within 5 s")


async def _events() -> list[Any]:
    from common.redis import close_async_redis

    events = [recorded.event for recorded in await read_events()]
    await close_async_redis()
    return events
