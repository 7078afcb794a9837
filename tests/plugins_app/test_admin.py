import json

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import Role, User
from accounts.services import ensure_administrator
from plugins_app.models import Plugin

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("clean_redis")]
FORM = {
    "enabled": "on", "priority": "7", "settings": "{}", "on_error": "open", "slow_seconds": "0.5",
    "timeout_seconds": "10", "max_failures": "5", "retry_seconds": "60",
}  # fmt: skip


@pytest.fixture
def administrator() -> Client:
    ensure_administrator(password=None)
    client = Client()
    client.force_login(User.objects.get())
    return client


def page(plugin_id: str) -> str:
    return reverse("admin:plugins_app_plugin_change", args=[plugin_id])


def test_every_installed_plugin_is_listed(administrator: Client) -> None:
    content = administrator.get(reverse("admin:plugins_app_plugin_changelist")).content
    for plugin_id in (b"model_adapter_v1", b"response_filter", b"prompt_guard", b"pii_redactor", b"json_repair"):
        assert plugin_id in content


def test_a_plugin_can_be_loaded_configured_and_unloaded(administrator: Client) -> None:
    administrator.get(page("json_repair"))
    answer = administrator.post(page("json_repair"), {**FORM, "loaded": "on", "settings": '{"models": ["llama*"]}'})
    assert answer.status_code == 302
    row = Plugin.objects.get(pk="json_repair")
    assert (row.loaded, row.priority, row.settings) == (True, 7, {"models": ["llama*"]})
    assert administrator.post(page("json_repair"), FORM).status_code == 302
    assert not Plugin.objects.get(pk="json_repair").loaded


def test_settings_are_shown_as_people_write_them(administrator: Client) -> None:
    administrator.get(page("json_repair"))
    administrator.post(page("json_repair"), {**FORM, "loaded": "on", "settings": ""})
    row = Plugin.objects.get(pk="json_repair")
    assert (row.loaded, row.settings) == (True, {"models": ["*"]})
    shown = administrator.get(page("json_repair")).context["adminform"].form["settings"].value()
    assert shown == '{\n  "models": [\n    "*"\n  ]\n}'


def test_a_page_that_was_opened_before_does_not_undo_what_others_did_since(administrator: Client) -> None:
    administrator.get(page("json_repair"))
    row = Plugin.objects.get(pk="json_repair")
    before = {**FORM, "priority": str(row.priority), "settings": json.dumps(row.settings)}
    Plugin.objects.filter(pk="json_repair").update(circuit="open", circuit_opened_at=timezone.now(), last_error="oh")
    administrator.post(page("json_repair"), {**before, "max_failures": "8"})
    row.refresh_from_db()
    assert (row.max_failures, row.circuit, row.last_error) == (8, "open", "oh")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("settings", '{"models": [1]}', "models[0]: 1 is not of type"),
        ("settings", "{", "Enter a valid JSON"),
        ("priority", "high", "Enter a whole number"),
        ("max_failures", "0", "greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_shown_at_its_field(administrator: Client, field: str, value: str, message: str) -> None:
    administrator.get(page("json_repair"))
    answer = administrator.post(page("json_repair"), {**FORM, "loaded": "on", field: value})
    assert answer.status_code == 200
    assert message in str(answer.context["adminform"].form.errors[field])
    assert not Plugin.objects.get(pk="json_repair").loaded


def test_the_actions_load_and_unload(administrator: Client) -> None:
    changelist = reverse("admin:plugins_app_plugin_changelist")
    administrator.get(changelist)
    for action, loaded in (("load", True), ("unload", False)):
        administrator.post(changelist, {"action": action, "_selected_action": ["json_repair", "prompt_guard"]})
        assert Plugin.objects.filter(loaded=True).count() == (2 if loaded else 0)


def test_none_is_added_and_others_do_not_enter(administrator: Client) -> None:
    assert administrator.get(reverse("admin:plugins_app_plugin_add")).status_code == 403
    eve = Client()
    eve.force_login(User.objects.create_user("eve", role=Role.VIEWER))
    assert eve.get(reverse("admin:plugins_app_plugin_changelist")).status_code == 302
