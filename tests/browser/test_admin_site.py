"""The admin site as an administrator uses it."""

import re

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.visitor import KEY, Visitor
from tests.running_server import RunningServer

LISTS = {
    "accounts/user": "admin",
    "accounts/apikey": "The key whose name is as long as the names of keys are in practice",
    "accounts/auditentry": "key.created",
    "accounts/dailyusage": "echo",
    "models_mgmt/model": "a-model-of-a-longer-name-7b-instruct",
    "models_mgmt/deployment": "echo",
    "plugins_app/plugin": "pii_redactor",
}


@pytest.fixture(scope="package")
def used_site(site: RunningServer) -> RunningServer:
    """With something in every list."""
    with httpx.Client(base_url=f"{site.url}/api/v1", headers=site.headers, timeout=60) as client:
        client.post("/infer", json={"text": "one two", "max_tokens": 5}).raise_for_status()
        client.post("/keys", json={"name": LISTS["accounts/apikey"]}).raise_for_status()
        model = {"id": LISTS["models_mgmt/model"], "source": "echo", "aliases": ["longer", "named-for-its-size"]}
        client.post("/models", json=model).raise_for_status()
        client.post("/plugins/pii_redactor/load", json={}).raise_for_status()
    return site


def test_who_signs_in_sees_what_there_is(page: Page, site: RunningServer) -> None:
    visitor = Visitor(page, site)
    visitor.sign_in("wrong")
    expect(page.locator(".errornote")).to_contain_text("correct username and password")
    visitor.sign_in(site.admin_password)
    for name in ("API keys", "Audit entries", "Daily usage", "Users", "Models", "Deployments", "Plugins"):
        expect(page.locator("#content-main").get_by_role("link", name=name, exact=True).first).to_be_visible()


def test_a_new_key_is_seen_once(visitor: Visitor) -> None:
    key = visitor.create_key("browser")
    assert KEY.fullmatch(key)
    assert visitor.status_with(key) == 200
    visitor.page.get_by_role("link", name="I have copied it").click()
    expect(visitor.row("browser")).to_have_count(1)
    assert key not in visitor.page.content()
    visitor.page.get_by_role("link", name="browser", exact=True).click()
    assert key not in visitor.page.content()
    visitor.open_list("accounts/auditentry")
    assert key not in visitor.page.content()


def test_a_key_is_revoked(visitor: Visitor) -> None:
    key = visitor.create_key("to be revoked")
    visitor.open_list("accounts/apikey")
    visitor.act("Revoke selected keys", "to be revoked")
    assert "1 revoked" in visitor.messages()
    expect(visitor.row("to be revoked")).to_contain_text("Revoked")
    assert visitor.status_with(key) == 401


def test_a_key_is_rotated(visitor: Visitor) -> None:
    old = visitor.create_key("to be rotated")
    visitor.open_list("accounts/apikey")
    visitor.act("Rotate selected keys …", "to be rotated")
    visitor.page.get_by_label("The old ones work on").select_option(label="not at all: the old key ends now")
    visitor.page.get_by_role("button", name="Rotate").click()
    new = visitor.shown_key()
    assert (visitor.status_with(new), visitor.status_with(old)) == (200, 401)


def test_a_key_gets_another_tier(visitor: Visitor) -> None:
    visitor.create_key("to be premium")
    visitor.open_list("accounts/apikey")
    visitor.act("Set the tier of selected keys to premium", "to be premium")
    expect(visitor.row("to be premium").locator(".field-tier")).to_have_text("premium")


@pytest.mark.usefixtures("used_site")
@pytest.mark.parametrize("name", LISTS)
def test_lists_and_rows_fit_the_screen(visitor: Visitor, name: str) -> None:
    page = visitor.page
    visitor.open_list(name)
    expect(page.locator("#result_list")).to_contain_text(LISTS[name])
    assert visitor.too_wide() == []
    first = page.locator("#result_list tbody th a").first
    if first.count():
        first.click()
        expect(page.locator("#content .module").first).to_be_visible()
        assert visitor.too_wide() == []


@pytest.mark.usefixtures("used_site")
def test_a_model_is_loaded_and_unloaded_from_its_list(visitor: Visitor) -> None:
    name = LISTS["models_mgmt/model"]
    for action, said, state in (
        ("Load", "is being loaded", "Loaded"),
        ("Unload, when what runs has ended", "is being unloaded", "Available"),
    ):
        visitor.open_list("models_mgmt/model")
        visitor.act(action, name)
        assert said in visitor.messages()
        _reload_until(visitor, name, state)


@pytest.mark.usefixtures("used_site")
def test_a_deployment_is_shown_and_nothing_of_it_can_be_edited(visitor: Visitor) -> None:
    visitor.open_list("models_mgmt/deployment")
    visitor.page.locator("#result_list tbody th a").first.click()
    expect(visitor.page.get_by_text("as the model has it")).to_be_visible()
    expect(visitor.page.get_by_role("button", name="Save")).to_have_count(0)
    visitor.page.get_by_role("link", name="History").click()
    expect(visitor.page).to_have_url(re.compile("auditentry/.*target_type__exact=model"))


def test_a_plugin_is_configured_and_a_mistake_is_told_at_its_field(visitor: Visitor) -> None:
    page = visitor.page
    page.goto("/admin/plugins_app/plugin/json_5Frepair/change/")
    settings = page.get_by_label("Settings:")
    settings.fill('{"models": "all"}')
    page.get_by_role("button", name="Save and continue editing").click()
    expect(page.locator(".field-settings .errorlist")).to_contain_text("models")
    settings.fill('{"models": ["e*"]}')
    page.get_by_label("Loaded").check()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(visitor.row("json_repair")).to_contain_text("Loaded")


def _reload_until(visitor: Visitor, name: str, state: str) -> None:
    for _ in range(40):
        visitor.open_list("models_mgmt/model")
        if state in visitor.row(name).inner_text():
            return
        visitor.page.wait_for_timeout(250)
    expect(visitor.row(name)).to_contain_text(state)
