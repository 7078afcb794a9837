"""The registry on the admin site."""

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from accounts.models import AuditEntry, Role, User
from models_mgmt.admin.registry import forget_workers
from models_mgmt.models import Deployment, Model
from models_mgmt.presence import DeploymentReport, announce
from tests.models_mgmt.made_models import model_files, write_files
from tests.models_mgmt.test_api import READY, report

pytestmark = pytest.mark.django_db
LIST = "/admin/models_mgmt/model/"


@pytest.fixture
def admin(clean_redis: str, tmp_path: Path, settings: Any) -> Client:
    forget_workers()
    settings.MODELS_DIR = tmp_path / "prepared"
    settings.MODEL_ROOTS = [tmp_path / "root"]
    write_files(tmp_path / "root" / "tiny", model_files())
    write_files(tmp_path / "root" / "other", model_files(chat=False))
    client = Client()
    client.force_login(User.objects.create_user("ada", role=Role.ADMINISTRATOR))
    return client


def add(client: Client, **fields: str) -> Any:
    return client.post(f"{LIST}add/", {"source": "tiny", **fields}, follow=True)


def change(client: Client, model: str, **fields: str) -> Any:
    whole = {"name": "Tiny", "type": "chat", "enabled": "on", **fields}
    return client.post(f"{LIST}{model}/change/", whole, follow=True)


def test_a_model_is_registered_from_its_source(admin: Client, tmp_path: Path) -> None:
    response = add(admin, name="Tiny", aliases="a, b", is_default="on", pinned="on")
    assert response.status_code == 200
    model = Model.objects.get()
    assert (model.id, model.name, model.is_default, model.pinned) == ("tiny", "Tiny", True, True)
    assert (model.architecture, model.type) == ("LlamaForCausalLM", "chat")
    assert sorted(alias.name for alias in model.aliases.all()) == ["a", "b"]
    assert AuditEntry.objects.get().actor == "ada"
    page = admin.get(LIST).content.decode()
    assert "18K" in page
    assert "~" in page
    assert str(tmp_path) not in page


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"source": "nothing"}, "There is no such folder"),
        ({"source": "/etc"}, "must lie within the model roots"),
        ({"revision": "main"}, "Only a repository of a hub has revisions"),
        ({"id": "a/b"}, "A name begins with a letter or digit"),
        ({"aliases": "default"}, "always means the default model"),
    ],
)
def test_what_is_wrong_is_told_on_the_page(admin: Client, fields: dict[str, str], words: str) -> None:
    assert words in add(admin, **fields).content.decode()
    assert not Model.objects.exists()


def test_a_model_is_changed(admin: Client) -> None:
    add(admin, aliases="a")
    assert admin.get(f"{LIST}tiny/change/").status_code == 200
    change(admin, "tiny", name="Renamed", type="instruct", aliases="b", trust_remote_code="on")
    model = Model.objects.get()
    assert (model.name, model.type, model.trust_remote_code) == ("Renamed", "instruct", True)
    assert [alias.name for alias in model.aliases.all()] == ["b"]
    assert AuditEntry.objects.filter(action="model.update").count() == 1


def test_the_default_stays_enabled(admin: Client) -> None:
    add(admin, is_default="on")
    page = admin.post(f"{LIST}tiny/change/", {"name": "Tiny", "type": "chat", "is_default": "on"}, follow=True)
    assert "make another one the default first" in page.content.decode()
    assert Model.objects.get().enabled


def test_actions_change_the_selected_ones(admin: Client) -> None:
    add(admin, is_default="on")
    add(admin, source="other")
    for action in ("make_default", "pin", "disable"):
        response = admin.post(LIST, {"action": action, "_selected_action": ["other"]}, follow=True)
    assert "can&#x27;t be disabled" in response.content.decode()
    other = Model.objects.get(pk="other")
    assert (other.is_default, other.pinned, other.enabled) == (True, True, True)


def test_a_loaded_model_shows_where_and_is_not_deleted(admin: Client) -> None:
    add(admin)
    announce(report(DeploymentReport(model_id="tiny", state="loaded", ready=READY)))
    forget_workers()
    page = admin.get(LIST).content.decode()
    assert "Loaded" in page
    assert "host/cpu" in page
    assert "270MB" in page
    response = admin.post(f"{LIST}tiny/delete/", {"post": "yes"}, follow=True)
    assert "The model is loaded or being loaded; unload it first" in response.content.decode()
    assert Model.objects.exists()


def test_a_model_that_is_not_loaded_is_deleted(admin: Client) -> None:
    add(admin, aliases="a")
    admin.post(f"{LIST}tiny/delete/", {"post": "yes"}, follow=True)
    assert not Model.objects.exists()


def test_others_stay_outside(admin: Client) -> None:
    client = Client()
    client.force_login(User.objects.create_user("eve", role=Role.OPERATOR))
    assert client.get(LIST).status_code == 302


def test_a_lost_model_is_shown_as_lost_with_its_place(admin: Client) -> None:
    add(admin)
    Deployment.objects.create(model_id="tiny", host="gone", device="cuda0", devices=["cuda0"], state="lost")
    forget_workers()
    page = admin.get(LIST).content.decode()
    assert "Lost" in page
    assert "(lost on gone/cuda0)" in page
