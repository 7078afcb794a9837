import pytest
from django.test import Client
from django.urls import reverse

from accounts.keys import create_api_key
from accounts.models import ApiKey, Role, User
from accounts.services import ensure_administrator
from models_mgmt.services import ensure_model

pytestmark = pytest.mark.django_db


@pytest.fixture
def administrator() -> Client:
    ensure_administrator(password=None)
    client = Client()
    client.force_login(User.objects.get())
    return client


@pytest.mark.parametrize("name", ["accounts_user", "accounts_apikey", "models_mgmt_model"])
def test_lists_and_forms_open(administrator: Client, name: str) -> None:
    owner = User.objects.get()
    row, key = create_api_key(owner=owner, name="mine")
    ids = {"accounts_user": owner.pk, "accounts_apikey": row.pk, "models_mgmt_model": "echo"}
    ensure_model(id="echo", name="Echo", source_kind="echo")
    pages = [reverse(f"admin:{name}_changelist"), reverse(f"admin:{name}_change", args=[ids[name]])]
    for page in pages:
        response = administrator.get(page)
        assert response.status_code == 200
        assert row.digest.encode() not in response.content
        assert key.encode() not in response.content


def test_a_user_can_be_made_with_a_role(administrator: Client) -> None:
    fields = {"username": "bob", "password1": "a long enough one", "password2": "a long enough one", "role": "operator"}
    response = administrator.post(reverse("admin:accounts_user_add"), {**fields, "usable_password": "true"})
    assert response.status_code == 302
    assert User.objects.get(username="bob").role == Role.OPERATOR


def test_keys_are_not_made_here(administrator: Client) -> None:
    assert administrator.get(reverse("admin:accounts_apikey_add")).status_code == 403
    assert not ApiKey.objects.exists()


def test_others_do_not_enter() -> None:
    client = Client()
    client.force_login(User.objects.create_user("eve", role=Role.VIEWER))
    assert client.get(reverse("admin:index")).status_code == 302
