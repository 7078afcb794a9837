import pytest
from asgiref.sync import sync_to_async
from django.db import IntegrityError, transaction

from common.errors import ModelNotFound
from models_mgmt.models import Model
from models_mgmt.selectors import aresolve_model, find_models, resolve_model
from models_mgmt.services import ensure_model

pytestmark = pytest.mark.django_db


def make(model_id: str, **fields: object) -> Model:
    return ensure_model(id=model_id, name=model_id.title(), source_kind="echo", **fields)  # type: ignore[arg-type]


def test_a_model_is_made_once_and_updated() -> None:
    make("echo", size="1B")
    make("echo", size="2B", capabilities=["chat"])
    model = Model.objects.get()
    assert (model.size, model.capabilities) == ("2B", ["chat"])


def test_the_default_moves() -> None:
    make("first", is_default=True)
    make("second", is_default=True)
    assert [model.id for model in Model.objects.filter(is_default=True)] == ["second"]
    for name in (None, "", "default"):
        assert resolve_model(name).id == "second"


def test_there_is_one_default_at_most() -> None:
    make("first", is_default=True)
    with pytest.raises(IntegrityError), transaction.atomic():
        Model.objects.create(id="second", name="Second", source_kind="echo", is_default=True)


@pytest.mark.parametrize("name", ["default", "unknown", "a/b", "a\0b", "", "x" * 1000, "é"])
def test_an_unknown_model_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound):
        resolve_model(name)


def test_a_disabled_model_is_not_found() -> None:
    make("hidden", is_default=True)
    Model.objects.update(enabled=False)
    for name in ("hidden", "default"):
        with pytest.raises(ModelNotFound):
            resolve_model(name)
    assert not find_models().exists()


def test_search_looks_into_ids_and_names() -> None:
    make("llama-one")
    ensure_model(id="other", name="A LLAMA too", source_kind="echo")
    make("third")
    assert [model.id for model in find_models(search="llama")] == ["llama-one", "other"]
    assert find_models().count() == 3


@pytest.mark.django_db(transaction=True)
async def test_a_coroutines_answer_is_forgotten_after_a_change() -> None:
    await sync_to_async(make)("first", is_default=True)
    assert (await aresolve_model("default")).id == "first"
    await sync_to_async(make)("second", is_default=True)
    assert (await aresolve_model(None)).id == "second"
    with pytest.raises(ModelNotFound):
        await aresolve_model("unknown")
