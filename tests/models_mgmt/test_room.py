"""Who gets a device's memory: loads that make room, or wait for it. The worker's engines are figures of the test."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_django import Settings

from common.errors import BackendUnavailable, InsufficientMemory
from engine.messages import Ready
from models_mgmt.device_memory import DeviceMemory
from models_mgmt.models import Deployment, Model
from models_mgmt.presence import DeploymentReport, WorkerReport, queue_name
from models_mgmt.room import Room

pytestmark = pytest.mark.django_db

GB = 1024**3
TOTAL = 10 * GB
Change = Callable[[], None]


class Worker:
    """A device of 10 GB with some models of 4 GB. `next`: what happens, one after the other, while a load waits."""

    def __init__(self, *models: str) -> None:
        self.held = {name: held(name) for name in models}
        self.evicted: list[str] = []
        self.waited: list[tuple[float, str]] = []
        self.next: Iterator[Change] = iter(())
        identity = WorkerReport("w", "a", "cpu", "cpu", queue_name("a", "cpu"), pid=1, started_at=0.0)
        self.room = Room(identity, reports=lambda: tuple(self.held.values()), memory=self.memory, evict=self.evict)

    def memory(self) -> DeviceMemory:
        return DeviceMemory(TOTAL, TOTAL - 4 * GB * len(self.held))

    def evict(self, name: str) -> int | None:
        if self.held[name].in_flight:
            return None
        self.evicted.append(name)
        del self.held[name]
        return 4 * GB

    def change(self, name: str, **fields: Any) -> Change:
        return lambda: self.held.update({name: held(name, **fields)})

    def gone(self, name: str) -> Change:
        return lambda: self.held.pop(name) and None

    def say(self, share: float, stage: str) -> None:
        self.waited.append((share, stage))
        if (change := next(self.next, None)) is not None:
            change()


def held(name: str, *, idle: float = 1.0, state: Any = "loaded", in_flight: int = 0) -> DeploymentReport:
    ready = Ready("cpu", "Llama", 1, 1, 128, "bf16", False, 4 * GB, 0, 32, 0.5)
    return DeploymentReport(model_id=name, state=state, ready=ready, idle_seconds=idle, in_flight=in_flight)


@pytest.fixture(autouse=True)
def evicting(settings: Settings) -> None:
    settings.EVICT = True
    settings.ROOM_WAIT = 20.0


@pytest.fixture
def row() -> Deployment:
    """One of 6 GB, of which 5 would do."""
    model = Model.objects.create(id="m", name="M", source_kind="echo")
    return Deployment.objects.create(model=model, host="a", device="cpu", devices=["cpu"], estimated_bytes=6 * GB)


def test_what_fits_evicts_nobody(row: Deployment) -> None:
    worker = Worker("one")
    worker.room.find(row, 5 * GB, worker.say)
    assert (worker.evicted, worker.waited, row.max_memory_bytes) == ([], [], 0)


def test_the_least_recently_used_by_now_goes_whatever_was_planned(row: Deployment) -> None:
    worker = Worker("one", "two")
    worker.change("two", idle=90)()
    row.evicts = ["one"]
    worker.room.find(row, 5 * GB, worker.say)
    assert worker.evicted == ["two"]


def test_one_that_has_become_busy_since_the_plan_is_spared_and_another_goes(row: Deployment) -> None:
    worker = Worker("one", "two")
    worker.change("one", in_flight=1)()
    row.evicts = ["one"]
    worker.room.find(row, 5 * GB, worker.say)
    assert worker.evicted == ["two"]


def test_one_that_becomes_busy_as_it_is_about_to_go_is_waited_for(row: Deployment) -> None:
    worker = Worker("one", "two")
    Model.objects.create(id="two", name="2", source_kind="echo", pinned=True)
    busy, idle = worker.change("one", in_flight=1), worker.change("one")
    worker.next = iter([busy, busy, idle])
    row.evicts = ["one"]

    worker.room.find(row, 5 * GB, worker.say)

    assert worker.evicted == ["one"]
    assert worker.waited[:3] == [(0.0, "wait")] * 3


@pytest.mark.parametrize("may_evict", [False, True])
def test_one_that_is_being_unloaded_is_waited_for(row: Deployment, settings: Settings, may_evict: bool) -> None:
    settings.EVICT = may_evict
    worker = Worker("one", "two")
    for name in ("one", "two"):
        worker.change(name, state="unloading", in_flight=1)()
    worker.next = iter([worker.change("one"), worker.gone("two")])

    worker.room.find(row, 5 * GB, worker.say)

    assert worker.evicted == (["one"] if may_evict else [])


def test_what_stays_in_use_for_too_long_fails_the_load(row: Deployment, settings: Settings) -> None:
    settings.ROOM_WAIT = 0.1
    worker = Worker("one", "two")
    for name in ("one", "two"):
        worker.change(name, in_flight=1)()
    with pytest.raises(InsufficientMemory) as caught:
        worker.room.find(row, 5 * GB, worker.say)
    assert (caught.value.details["needed_bytes"], caught.value.details["free_bytes"]) == (5 * GB, 2 * GB)
    assert worker.waited
    assert worker.evicted == []


@pytest.mark.parametrize("may_evict", [False, True])
def test_nobody_is_evicted_or_waited_for_in_vain(row: Deployment, settings: Settings, may_evict: bool) -> None:
    settings.EVICT = may_evict
    worker = Worker("one", "two")
    Model.objects.create(id="two", name="2", source_kind="echo", pinned=may_evict)
    with pytest.raises(InsufficientMemory):
        worker.room.find(row, 7 * GB, worker.say)
    assert (worker.waited, worker.evicted) == ([], [])


def test_an_unload_of_the_model_that_waits_ends_its_waiting(row: Deployment) -> None:
    worker = Worker("one", "two")
    for name in ("one", "two"):
        worker.change(name, in_flight=1)()

    def given_up(share: float, stage: str) -> None:
        raise BackendUnavailable

    with pytest.raises(BackendUnavailable):
        worker.room.find(row, 5 * GB, given_up)
