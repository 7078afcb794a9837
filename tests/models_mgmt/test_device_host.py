"""A worker's care for the models of its device. Its worker is announced by the test; no engine is started."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.conf import settings as settings_of_django
from pytest_django import Settings

from common.errors import BackendUnavailable, InsufficientMemory, InvalidInput
from common.redis import sync_redis
from engine.messages import Ready
from models_mgmt.deployments import ticket_key
from models_mgmt.device_host import DeviceHost
from models_mgmt.engines import Engine
from models_mgmt.looking import describe
from models_mgmt.models import Deployment, Model
from models_mgmt.presence import DeploymentReport, WorkerReport, announce, queue_name
from models_mgmt.services import register_model
from tests.models_mgmt.made_models import model_files

pytestmark = pytest.mark.django_db(transaction=True)

GB = 1024**3
State = Deployment.State


@pytest.fixture
def host(clean_redis: str, settings: Settings) -> Iterator[DeviceHost]:
    settings.WORKER_LOST_SECONDS = 60.0
    worker = WorkerReport("w", "a", "cpu", "cpu", queue_name("a", "cpu"), pid=1, started_at=0.0)
    announce(worker)
    host = DeviceHost(lambda: worker, on_events=lambda events: None, changed=lambda: None)
    yield host
    host.stop()


@pytest.fixture
def model(tmp_path: Path, settings: Settings) -> Model:
    """One that has files, so that its need is known: some 700 MB, most of them for the engine itself."""
    settings.MODEL_ROOTS = (tmp_path,)
    folder = tmp_path / "m"
    folder.mkdir()
    for name, content in model_files().items():
        (folder / name).write_bytes(content)
    return register_model(describe(str(folder)), id="m")


def wanted(model: Model, state: str = State.REQUESTED, **fields: object) -> Deployment:
    return Deployment.objects.create(model=model, host="a", device="cpu", devices=["cpu"], state=state, **fields)


def silent(share: float, stage: str) -> None:
    pass


@pytest.mark.parametrize("state", [State.REQUESTED, State.LOADING])
def test_a_load_does_not_take_the_room_that_one_before_it_was_promised(
    host: DeviceHost, model: Model, state: str, settings: Settings
) -> None:
    settings.MAX_MEMORY = "2GB"
    another = Model.objects.create(id="n", name="N", source_kind="echo")
    first = wanted(another, state, estimated_bytes=2 * GB)
    wanted(model)

    with pytest.raises(InsufficientMemory, match="0B are free"):
        host.prepare("m", silent)

    first.delete()
    assert host.prepare("m", silent).model_path.endswith("/m")


def test_of_two_loads_that_do_not_fit_together_the_first_one_goes_on(
    host: DeviceHost, model: Model, settings: Settings
) -> None:
    settings.MAX_MEMORY = "2GB"
    wanted(model)
    another = Model.objects.create(id="n", name="N", source_kind="echo")
    wanted(another, State.REQUESTED, estimated_bytes=2 * GB)

    assert host.prepare("m", silent).model_path.endswith("/m")


def test_an_unload_and_a_repeated_message_never_wait_behind_loads(
    host: DeviceHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, begun = threading.Event(), []

    def held_up(model: Model, on_progress: Any) -> Path:
        begun.append(model.pk)
        while not held.wait(0.02):
            on_progress("download", 0.5)
        return Path()

    monkeypatch.setattr("models_mgmt.device_host.prepare", held_up)
    count = settings_of_django.LOADS_AT_ONCE + 1
    rows = [wanted(Model.objects.create(id=f"m{n}", name="M", source_kind="echo")) for n in range(count)]
    try:
        for row in rows * 2:
            host.load(row.pk)  # returns at once
        wait_for(lambda: len(begun) == count - 1)
        cancelled = next(row for row in rows if row.model_id == begun[0])
        settle(cancelled, State.UNLOADING)

        host.unload(cancelled.pk, ticket="t")

        wait_for(lambda: sync_redis().exists(ticket_key("t")) == 1)
        cancelled.refresh_from_db()
        assert cancelled.state == State.UNLOADED
        wait_for(lambda: len(begun) == count)
        assert len(set(begun)) == count
    finally:
        host.stop()
        held.set()


def test_a_model_that_is_deleted_while_it_is_loaded_leaves_no_engine(host: DeviceHost) -> None:
    row = wanted(Model.objects.create(id="n", name="N", source_kind="echo"))
    host.load(row.pk)
    wait_for(lambda: [report.state for report in host.reports()] == ["loaded"])
    pid = host.reports()[0].pid
    host.unload_deleted("n")  # as it is still registered, this does nothing
    Model.objects.all().delete()
    assert pid is not None
    assert psutil.pid_exists(pid)

    host.unload_deleted("n")

    wait_for(lambda: host.reports() == ())
    assert not psutil.pid_exists(pid)


def test_a_load_that_was_given_up_and_is_wanted_again_at_once_is_loaded(
    host: DeviceHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = wanted(Model.objects.create(id="n", name="N", source_kind="echo"))
    tries = []

    def given_up(model_id: str, *, retry: bool) -> Engine:
        tries.append(model_id)
        if len(tries) == 1:
            host.load(row.pk)  # as its message comes before the first try has ended
        raise BackendUnavailable

    monkeypatch.setattr(host._pool, "get", given_up)
    host.load(row.pk)

    wait_for(lambda: len(tries) == 2)
    wait_for(lambda: not host._loads)


def test_more_context_than_the_files_turn_out_to_have_fails_the_load(host: DeviceHost, model: Model) -> None:
    Model.objects.update(context_length=None, shape=None)  # as of a model whose files nobody has seen
    wanted(model, context_length=1024)
    with pytest.raises(InvalidInput, match="has 256 tokens"):
        host.prepare("m", silent)


def test_a_load_that_does_not_fit_tells_what_is_needed_what_is_free_and_what_could_go(
    host: DeviceHost, model: Model, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model_id, pinned in (("idle", False), ("busy", False), ("pinned", True)):
        Model.objects.create(id=model_id, name="N", source_kind="echo", pinned=pinned)
    ready = Ready("cpu", "Llama", 1, 1, 128, "bf16", False, GB, 0, 32, 0.5)
    monkeypatch.setattr(
        host._pool,
        "reports",
        lambda: tuple(
            DeploymentReport(model_id=name, state="loaded", ready=ready, in_flight=int(name == "busy"))
            for name in ("idle", "busy", "pinned")
        ),
    )
    settings.MAX_MEMORY = "1MB"
    row = wanted(model)

    host.load(row.pk)

    wait_for(lambda: Deployment.objects.get(pk=row.pk).state == State.FAILED)
    row.refresh_from_db()
    assert row.error_code == "INSUFFICIENT_MEMORY"
    assert row.error_details["needed_bytes"] > row.error_details["free_bytes"] == 1024**2
    assert (row.error_details["model"], row.error_details["device"]) == ("m", "a/cpu")
    assert row.error_details["could_be_unloaded"] == [{"model": "idle", "memory": "1.0GB", "memory_bytes": GB}]


def test_a_limit_counts_what_models_of_other_workers_have_on_this_device(host: DeviceHost, settings: Settings) -> None:
    settings.MAX_MEMORY = "64MB"
    split = DeploymentReport(model_id="split", state="loaded", device_bytes={"cuda0": GB, "cpu": 40 * 1024**2})
    other = WorkerReport(
        "o", "a", "cuda0", "cuda", queue_name("a", "cuda0"), pid=2, started_at=0.0, deployments=(split,)
    )
    assert host.memory().free_bytes == 64 * 1024**2
    announce(other)
    assert host.memory().free_bytes == 24 * 1024**2


def settle(row: Deployment, state: str) -> None:
    Deployment.objects.filter(pk=row.pk).update(state=state)


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
