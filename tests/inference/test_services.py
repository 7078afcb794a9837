"""Names that a process remembers while their models are deleted."""

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from common.errors import ModelNotFound
from inference.services import with_model
from models_mgmt.deployments import LoadOptions, demand, request_load
from models_mgmt.models import Model, ModelAlias

pytestmark = pytest.mark.django_db(transaction=True)


class Worker:
    """Does the work for models that are registered, as a worker does, and notes for which."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def work(self, model: Model) -> str:
        self.asked.append(model.pk)
        if not await Model.objects.filter(pk=model.pk).aexists():
            raise ModelNotFound(details={"model": model.pk})
        return model.pk


async def move_and_delete() -> None:
    """As another process does, so that this one is not told."""
    await ModelAlias.objects.aupdate(model_id="new")
    await Model.objects.filter(pk="old").adelete()


@pytest.fixture
async def worker() -> Worker:
    for name in ("old", "new"):
        await Model.objects.acreate(id=name, name=name, source_kind="echo")
    await ModelAlias.objects.acreate(name="live", model_id="old")
    worker = Worker()
    assert await with_model("live", worker.work) == "old"  # remembered from here on
    worker.asked.clear()
    return worker


async def test_a_remembered_name_whose_model_is_gone_is_looked_up_anew(worker: Worker) -> None:
    await move_and_delete()

    assert await asyncio.gather(*(with_model("live", worker.work) for _ in range(3))) == ["new"] * 3
    assert "old" in worker.asked


async def test_a_name_that_means_nothing_any_more_is_not_found(worker: Worker) -> None:
    await Model.objects.filter(pk="old").adelete()

    with pytest.raises(ModelNotFound):
        await with_model("live", worker.work)
    assert worker.asked == ["old"]


async def test_what_is_not_found_for_a_model_that_is_there_is_told_once(worker: Worker) -> None:
    tries = 0

    async def refuse(model: Model) -> Any:
        nonlocal tries
        tries += 1
        raise ModelNotFound

    with pytest.raises(ModelNotFound):
        await with_model("live", refuse)
    assert tries == 1


async def test_a_deleted_model_is_not_loaded_for_a_request(clean_redis: str) -> None:
    with pytest.raises(ModelNotFound):
        await demand("deleted")


async def test_a_model_deleted_while_it_is_placed_is_not_found(clean_redis: str) -> None:
    with pytest.raises(ModelNotFound):
        await sync_to_async(request_load)(Model(id="deleted", source_kind="echo"), LoadOptions(), workers=())
