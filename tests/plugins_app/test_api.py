"""The doors of section 5."""

from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncClient

from accounts.models import AuditEntry
from plugins_app.models import Plugin
from tests.accounts.conftest import bearer, make_key, make_user

pytestmark = pytest.mark.django_db(transaction=True)
PLUGINS = "/api/v1/plugins"
FILTER = f"{PLUGINS}/response_filter"


class Caller:
    """A client with a key."""

    def __init__(self, key: str) -> None:
        self._headers = bearer(key)

    async def __call__(self, method: str, path: str, body: Any = None) -> Any:
        client = AsyncClient()
        return await getattr(client, method)(path, data=body, content_type="application/json", headers=self._headers)


@pytest.fixture
async def admin(clean_redis: str) -> Caller:
    return Caller(await make_key())


@pytest.fixture
async def reader(clean_redis: str) -> Caller:
    return Caller(await make_key(await make_user(username="eve"), permission="read"))


async def test_the_list_answers_as_documented(reader: Caller) -> None:
    body = (await reader("get", PLUGINS)).json()
    by_id = {plugin["id"]: plugin for plugin in body["plugins"]}
    assert {"model_adapter_v1", "response_filter", "prompt_guard", "pii_redactor", "json_repair"} <= set(by_id)
    adapter = by_id["model_adapter_v1"]
    assert (adapter["name"], adapter["version"], adapter["status"]) == ("Model Adapter", "1.0.0", "available")
    assert (adapter["category"], adapter["author"]) == ("preprocessing", "LLaMA GPU Team")
    assert adapter["description"] == "Adapts model inputs for optimal performance"
    assert (body["total_plugins"], body["loaded_plugins"]) == (len(by_id), 0)


async def test_load_configure_and_unload_answer_as_documented(admin: Caller) -> None:
    config = {"enabled": True, "priority": 10, "settings": {"redaction": "***"}}
    loaded = (await admin("post", f"{FILTER}/load", {"config": config})).json()
    assert loaded["message"] == "Plugin loaded successfully"
    assert (loaded["plugin"]["id"], loaded["plugin"]["status"]) == ("response_filter", "loaded")
    assert loaded["plugin"]["load_time"] > 0
    assert loaded["plugin"]["config"]["priority"] == 10

    changed = (await admin("put", f"{FILTER}/config", {"config": {"priority": 15, "settings": {"rules": []}}})).json()
    assert changed["message"] == "Plugin configuration updated"
    assert (changed["config"]["priority"], changed["config"]["enabled"]) == (15, True)
    assert changed["config"]["settings"] == {"rules": [], "redaction": "[redacted]"}

    gone = (await admin("delete", f"{FILTER}/unload")).json()
    assert gone == {"success": True, "message": "Plugin unloaded successfully", "plugin_id": "response_filter"}
    row = await Plugin.objects.aget(pk="response_filter")
    assert (row.loaded, row.priority) == (False, 15)
    actions = await sync_to_async(lambda: [*AuditEntry.objects.order_by("id").values_list("action", flat=True)])()
    assert [action for action in actions if action.startswith("plugin.")] == [
        "plugin.loaded", "plugin.updated", "plugin.unloaded",
    ]  # fmt: skip


async def test_loading_needs_no_configuration_and_can_be_repeated(admin: Caller) -> None:
    for _ in range(2):
        assert (await admin("post", f"{FILTER}/load", {})).status_code == 200
        assert (await admin("delete", f"{FILTER}/unload")).status_code == 200
        assert (await admin("delete", f"{FILTER}/unload")).status_code == 200


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"settings": {"rules": [{"pattern": "("}]}}, "config.settings.rules[0].pattern"),
        ({"settings": {"rules": [{"pattern": "(a+)+$"}]}}, "config.settings.rules[0].pattern"),
        ({"settings": {"rules": "x"}}, "config.settings.rules"),
        ({"settings": {"colour": "red"}}, "config.settings.colour"),
        ({"settings": []}, "config.settings"),
        ({"priority": "high"}, "config.priority"),
        ({"priority": 10**9}, "config.priority"),
        ({"enabled": "yes"}, "config.enabled"),
        ({"on_error": "explode"}, "config.on_error"),
        ({"max_failures": 0}, "config.max_failures"),
        ({"slow_seconds": -1}, "config.slow_seconds"),
        ({"unknown": 1}, "unknown"),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("post", "load"), ("put", "config")])
async def test_a_bad_configuration_is_refused_by_field(
    admin: Caller, method: str, path: str, config: Any, field: str
) -> None:
    answer = await admin(method, f"{FILTER}/{path}", {"config": config})
    assert answer.status_code == 400, answer.content
    assert answer.json()["error"]["details"]["field"] == field
    assert not await Plugin.objects.filter(loaded=True).aexists()


@pytest.mark.parametrize(
    "plugin_id", ["unknown", "os", "plugins_app.builtin.json_repair", "..%2F..%2Fetc%2Fpasswd", "%00", "x" * 300]
)
async def test_only_installed_plugins_can_be_named(admin: Caller, plugin_id: str) -> None:
    for method, path in (("get", ""), ("post", "/load"), ("delete", "/unload")):
        answer = await admin(method, f"{PLUGINS}/{plugin_id}{path}", {} if method == "post" else None)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] in {"PLUGIN_NOT_FOUND", "NOT_FOUND"}


async def test_only_administrators_load_and_see_settings(admin: Caller, reader: Caller) -> None:
    await admin("post", f"{FILTER}/load", {})
    for method, path in (("post", "load"), ("delete", "unload"), ("put", "config")):
        answer = await reader(method, f"{FILTER}/{path}", {"config": {}})
        assert answer.status_code == 403
    seen, whole = (await reader("get", FILTER)).json()["plugin"], (await admin("get", FILTER)).json()["plugin"]
    assert "settings" not in seen["config"]
    assert "last_error" not in seen["circuit"]
    assert whole["config"]["settings"] == {"rules": [], "redaction": "[redacted]"}
    assert whole["circuit"] == {"state": "closed", "opened_at": None, "last_error": "", "last_error_at": None}
    assert (await AsyncClient().get(PLUGINS)).status_code == 401
