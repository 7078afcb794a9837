"""The deployments on the admin site, and the actions of the list of models. The worker is announced by the test."""

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from accounts.models import AuditEntry, Role, User
from models_mgmt.deployments import LOAD_TASK, UNLOAD_TASK
from models_mgmt.models import Deployment, Model
from tests.models_mgmt.test_deployments import Sent, announced, sent

__all__ = ["sent"]
pytestmark = pytest.mark.django_db(transaction=True)
DEPLOYMENTS = "admin:models_mgmt_deployment_changelist"
MODELS = "admin:models_mgmt_model_changelist"


@pytest.fixture
async def redis(clean_redis: str, settings: Settings) -> str:
    settings.WORKER_LOST_SECONDS = 60.0  # nobody announces the worker again
    return clean_redis


@pytest.fixture
def client(redis: str) -> Client:
    ada = User.objects.create_user("ada", role=Role.ADMINISTRATOR)
    client = Client()
    client.force_login(ada)
    return client


@pytest.fixture
def model() -> Model:
    return Model.objects.create(id="m", name="M", source_kind="echo")


def act(client: Client, page: str, action: str, key: object) -> str:
    """Returns what the page then tells."""
    answer = client.post(reverse(page), {"action": action, "_selected_action": str(key)}, follow=True)
    assert answer.status_code == 200
    return " ".join(str(message) for message in answer.context["messages"])


def test_models_are_loaded_and_unloaded_from_their_list(client: Client, model: Model, sent: Sent) -> None:
    announced(loaded={"m": 0.0})
    assert "m is being loaded" in act(client, MODELS, "load_models", "m")
    assert "m is being unloaded" in act(client, MODELS, "unload_models", "m")
    assert [name for name, *_ in sent] == [LOAD_TASK, UNLOAD_TASK]
    assert set(AuditEntry.objects.values_list("action", "actor")) >= {("model.load", "ada"), ("model.unload", "ada")}


def test_a_load_that_is_refused_is_told_on_the_page(client: Client, model: Model, sent: Sent) -> None:
    assert "No worker is running" in act(client, MODELS, "load_models", "m")
    assert sent == []


def test_deployments_are_shown_loaded_again_and_unloaded(client: Client, model: Model, sent: Sent) -> None:
    announced(loaded={"m": 0.0})
    row = Deployment.objects.create(
        model=model, host="a", device="cpu", devices=["cpu"], state="failed", error="It is broken."
    )
    page = client.get(reverse(DEPLOYMENTS)).content.decode()
    assert "It is broken." in page
    assert "a/cpu" in page

    assert "is being loaded" in act(client, DEPLOYMENTS, "load_again", row.pk)
    assert "is being unloaded" in act(client, DEPLOYMENTS, "unload", row.pk)
    assert "is being unloaded" in act(client, DEPLOYMENTS, "unload_by_force", row.pk)

    assert [(name, queue) for name, queue, _ in sent] == [
        (LOAD_TASK, "control.a.cpu"),
        (UNLOAD_TASK, "control.a.cpu"),
        (UNLOAD_TASK, "control.a.cpu"),
    ]
    assert [arguments[2] for _, _, arguments in sent[1:]] == [False, True]


def test_deployments_are_not_written_by_hand(client: Client, model: Model) -> None:
    row = Deployment.objects.create(model=model, host="a", device="cpu", state="loaded")
    assert client.get(reverse("admin:models_mgmt_deployment_add")).status_code == 403
    change = reverse("admin:models_mgmt_deployment_change", args=[row.pk])
    assert client.get(change).status_code == 200
    client.post(change, {"state": "unloaded"})
    row.refresh_from_db()
    assert row.state == "loaded"
