"""A start finds or makes the administrator, the key and the default model, and leaves alone what was chosen since."""

from pathlib import Path

import pytest
from pytest_django import Settings

from accounts.models import ApiKey, User
from llama_gpu_site.supervisor.failure import StartError
from llama_gpu_site.supervisor.provision import access_token, provision_database, provision_model
from models_mgmt import demo
from models_mgmt.models import Model
from models_mgmt.services import ensure_model, update_model
from tests.running_server import MODELS_DIR

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def first_start(settings: Settings) -> None:
    """Nothing is preset, and the demo model is prepared."""
    settings.DEFAULT_MODEL, settings.DEFAULT_MODEL_IS_SET = "demo", False
    settings.ADMIN_PASSWORD = settings.API_KEY = ""
    settings.MODELS_DIR = MODELS_DIR


def default_model() -> str:
    return Model.objects.get(is_default=True).id


def test_the_first_start_makes_an_administrator_and_a_key() -> None:
    made = provision_database(print)
    assert made.password is not None
    assert made.api_key is not None
    assert User.objects.get().check_password(made.password)
    assert ApiKey.objects.count() == 1


def test_a_later_start_makes_none() -> None:
    provision_database(print)
    again = provision_database(print)
    assert (again.password, again.api_key) == (None, None)


def test_preset_ones_are_taken_and_not_shown(settings: Settings) -> None:
    settings.ADMIN_PASSWORD, settings.API_KEY = "a preset password", "a-preset-key-0123456789"
    made = provision_database(print)
    assert (made.password, made.api_key) == (None, None)
    assert User.objects.get().check_password("a preset password")


def test_a_useless_preset_key_is_refused(settings: Settings) -> None:
    settings.API_KEY = "short"
    with pytest.raises(StartError, match="LLAMA_GPU_API_KEY"):
        provision_database(print)


def test_there_is_a_token_for_the_first_request() -> None:
    provision_database(print)
    assert access_token().count(".") == 2


def test_the_demo_model_is_the_default_with_what_its_files_say() -> None:
    assert provision_model(print) == demo.MODEL_ID == default_model()
    model = Model.objects.get()
    assert model.path == str(MODELS_DIR / demo.MODEL_ID)
    assert (model.size, model.type, model.parameters) == ("135M", "instruct", 134_515_008)
    assert (model.context_length, model.capabilities) == (8192, ["text-generation", "instruct"])


def test_what_operators_set_of_it_outlives_a_restart() -> None:
    provision_model(print)
    update_model(demo.MODEL_ID, {"name": "Small", "pinned": True, "aliases": ["chat"]})
    provision_model(print)
    model = Model.objects.get()
    assert (model.name, model.pinned) == ("Small", True)
    assert [alias.name for alias in model.aliases.all()] == ["chat"]


def test_echo_can_be_wanted_and_is_not_kept(settings: Settings) -> None:
    settings.DEFAULT_MODEL, settings.DEFAULT_MODEL_IS_SET = "echo", True
    assert provision_model(print) == "echo" == default_model()
    settings.DEFAULT_MODEL, settings.DEFAULT_MODEL_IS_SET = "demo", False
    assert provision_model(print) == demo.MODEL_ID == default_model()


def test_an_administrators_choice_outlives_a_restart() -> None:
    ensure_model(id="mine", name="Mine", source_kind="folder", path="/models/mine", is_default=True)
    assert provision_model(print) == "mine" == default_model()
    assert not Model.objects.filter(pk=demo.MODEL_ID).exists()


def test_a_wanted_model_becomes_the_default(settings: Settings) -> None:
    provision_model(print)
    ensure_model(id="mine", name="Mine", source_kind="folder", path="/models/mine")
    settings.DEFAULT_MODEL, settings.DEFAULT_MODEL_IS_SET = "mine", True
    assert provision_model(print) == "mine" == default_model()


def test_an_unknown_model_is_refused_with_the_known_ones(settings: Settings) -> None:
    provision_model(print)
    settings.DEFAULT_MODEL, settings.DEFAULT_MODEL_IS_SET = "yours", True
    with pytest.raises(
        StartError, match=f"'yours', which is no known model; set it to one of: demo, echo, {demo.MODEL_ID}"
    ):
        provision_model(print)


def test_a_demo_model_that_can_not_be_prepared_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*, models_dir: Path, say: object) -> Path:
        raise demo.DemoModelError("The demo model could not be fetched.")

    monkeypatch.setattr(demo, "ensure_demo_model", fail)
    with pytest.raises(StartError, match="could not be fetched"):
        provision_model(print)
