"""A worker's care for the models of its device. Its worker is announced by the test; no engine is started."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from common.errors import InsufficientMemory
from models_mgmt.device_host import DeviceHost
from models_mgmt.looking import describe
from models_mgmt.models import Deployment, Model
from models_mgmt.presence import WorkerReport, announce, queue_name
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
