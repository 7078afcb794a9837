"""The dashboard as people use it."""

import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, expect

from monitoring.pages import PAGES
from tests.browser.visitor import KEY
from tests.running_server import RunningServer

SIZES = {"phone": (390, 844), "desk": (1440, 900)}
_TOO_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Less than a week of metrics takes; a page that hangs is told apart from one that is slow under load.
SOON = 20_000


class Screen:
    """A browser's window on the dashboard, and what went wrong in it."""

    def __init__(self, context: BrowserContext, site: RunningServer) -> None:
        self.site = site
        self.page = context.new_page()
        self.failures: list[str] = []
        self.expected_loss = False
        host = urlsplit(site.url).netloc
        self.page.on("pageerror", lambda error: self.failures.append(str(error)))
        self.page.on("console", lambda said: self._hear(said.type, said.text))
        self.page.on(
            "request",
            lambda sent: (
                None if urlsplit(sent.url).netloc in {host, ""} else self.failures.append(f"asked for {sent.url}")
            ),
        )

    def _hear(self, kind: str, text: str) -> None:
        if kind == "error" and not self.expected_loss:
            self.failures.append(text)

    def sign_in(self, username: str = "admin", password: str = "") -> None:
        self.page.goto("/")
        self.page.get_by_label("Username").fill(username)
        self.page.get_by_label("Password").fill(password or self.site.admin_password)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.locator(".tile").first).to_be_visible()  # by then all of the page's scripts run

    def open(self, address: str) -> None:
        self.page.goto(f"/{address}")
        expect(self.page.locator("[aria-busy]")).to_have_count(0)

    def call(self, method: str, path: str, **options: object) -> httpx.Response:
        """The API, past the browser."""
        url = f"{self.site.url}/api/v1/{path}"
        return httpx.request(method, url, headers=self.site.headers, timeout=60, **options)  # type: ignore[arg-type]


@pytest.fixture
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    return SIZES[getattr(request, "param", "desk")]


@pytest.fixture
def screen(
    browser: Browser, site: RunningServer, size: tuple[int, int], request: pytest.FixtureRequest
) -> Iterator[Screen]:
    """Not signed in yet. Whatever a script fails at, or asks another host for, fails the test."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, base_url=site.url)
    context.set_default_timeout(SOON)
    expect.set_options(timeout=SOON)
    screen = Screen(context, site)
    yield screen
    if folder := os.environ.get("LLAMA_GPU_TEST_SCREENSHOTS"):
        screen.page.screenshot(path=Path(folder) / f"{request.node.name}.png".replace("/", "-"))
    context.close()
    assert screen.failures == []


@pytest.fixture
def admin(screen: Screen) -> Screen:
    screen.sign_in()
    return screen


@pytest.mark.parametrize("size", SIZES, indirect=True)
def test_every_page_fits_and_can_be_used_by_everybody(admin: Screen) -> None:
    admin.call("POST", "infer", json={"text": "one two", "max_tokens": 5}).raise_for_status()
    axe, found = Axe(), []
    for page in PAGES:
        admin.open(page.address)
        for scheme in ("light", "dark"):
            admin.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
            assert admin.page.evaluate(_TOO_WIDE) <= 0, page.name
            for violation in axe.run(admin.page).response["violations"]:
                if violation["impact"] in {"serious", "critical"}:
                    where = [node["html"][:200] for node in violation["nodes"]]
                    found.append(f"{page.name}, {scheme}: {violation['help']}: {where}")
    assert found == []


def test_the_overview_moves_while_requests_run(admin: Screen) -> None:
    page = admin.page
    tile = page.locator(".tile", has_text="Requests per minute").locator("dd")
    expect(tile).not_to_have_text("–")
    page.get_by_text("Live", exact=True).click()
    expect(page.locator("figure canvas").first).to_be_visible()
    before = page.locator("figure").first.get_attribute("data-times")
    for _ in range(6):
        admin.call("POST", "infer", json={"text": "one two three", "max_tokens": 3}).raise_for_status()
    page.wait_for_function(
        "() => parseFloat(document.querySelector('.tile dd').textContent) > 0"  # the mean of five minutes
    )
    expect(page.locator("figure").first).not_to_have_attribute("data-times", before or "")
    for name in ("6 h", "24 h", "7 d"):
        page.get_by_text(name, exact=True).click()
        expect(page.locator("figure canvas").first).to_be_visible()


def test_a_chat_streams_and_stops(admin: Screen) -> None:
    page = admin.page
    admin.open("playground")
    page.get_by_text("Settings").click()
    page.get_by_label("Most tokens").fill("3")
    page.get_by_label("Prompt", exact=True).fill("one two three four")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant")).to_contain_text("3 generated")
    expect(page.get_by_role("tabpanel", name="Code")).to_contain_text('"max_tokens":3')
    page.get_by_role("tab", name="Python").click()
    expect(page.get_by_role("tabpanel", name="Code")).to_contain_text("httpx.stream")

    page.get_by_role("button", name="Compare two").click()
    page.get_by_label("Prompt", exact=True).fill("again")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".lane")).to_have_count(2)
    expect(page.locator(".turn.assistant .quiet")).to_have_count(3)


def test_a_bad_setting_is_told_at_its_field(admin: Screen) -> None:
    page = admin.page
    admin.expected_loss = True  # the browser itself tells of the 400
    admin.open("playground")
    page.get_by_text("Settings").click()
    page.get_by_label("Top p").fill("7")
    page.get_by_label("Prompt", exact=True).fill("one")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".mistake")).to_contain_text("1.0")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("one")


def test_a_model_is_looked_at_loaded_and_unloaded(admin: Screen) -> None:
    page = admin.page
    admin.call("POST", "models", json={"id": "on-the-page", "source": "echo", "source_kind": "echo"})
    admin.open("models")
    row = page.locator('tr[data-model="on-the-page"]')
    row.get_by_role("button", name="on-the-page").click()
    expect(page.get_by_role("dialog")).to_contain_text("echo")
    page.get_by_role("button", name="Close").click()
    row.get_by_role("button", name="Load").click()
    expect(page.get_by_role("dialog")).to_contain_text("It fits")
    page.get_by_role("dialog").get_by_role("button", name="Load").click()
    expect(row.locator(".badge")).to_contain_text("loaded")
    row.get_by_role("button", name="Unload").click()
    page.get_by_role("dialog").get_by_role("button", name="Unload").click()
    expect(row.locator(".badge")).to_have_text("available")


def test_a_key_is_made_seen_once_used_and_revoked(admin: Screen) -> None:
    page = admin.page
    admin.open("keys")
    page.get_by_role("button", name="Create a key").click()
    page.get_by_role("dialog").get_by_label("Name", exact=True).fill("of the dashboard")
    page.get_by_role("button", name="Create", exact=True).click()
    key = page.locator("#new-key").inner_text()
    assert KEY.fullmatch(key)
    page.get_by_role("button", name="I have copied it").click()
    expect(page.locator("#new-key")).to_have_count(0)
    row = page.locator("#keys tr", has_text="of the dashboard")
    expect(row.locator(".badge")).to_have_text("active")
    assert key not in page.content()
    models = f"{admin.site.url}/api/v1/models"
    assert httpx.get(models, headers={"X-API-Key": key}).status_code == 200
    row.get_by_role("button", name="Limits").click()
    expect(page.get_by_role("img", name="models: 1 of 1,000")).to_be_visible()
    page.get_by_role("button", name="Close").click()

    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.locator("#keys tr", has_text="of the dashboard")).to_have_count(0)
    assert httpx.get(models, headers={"X-API-Key": key}).status_code == 401


def test_a_job_runs_and_its_results_are_downloaded(admin: Screen) -> None:
    page = admin.page
    admin.open("jobs")
    page.get_by_role("button", name="New job").click()
    dialog = page.get_by_role("dialog")
    prompts = b'text,max_tokens\n"one, two",2\nthree,1\n'
    dialog.get_by_label("File of prompts").set_input_files(
        {"name": "prompts.csv", "mimeType": "text/csv", "buffer": prompts}
    )
    dialog.get_by_label("Name", exact=True).fill("from a file")
    dialog.get_by_role("button", name="Start").click()
    row = page.locator("#jobs tr", has_text="from a file")
    expect(row.locator(".badge")).to_have_text("completed", timeout=60_000)
    expect(row).to_contain_text("2 of 2")
    with page.expect_download() as download:
        row.get_by_role("button", name="Results").click()
    lines = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert [line["id"] for line in lines] == ["0", "1"]
    row.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(row).to_have_count(0)


def test_a_plugin_is_configured_with_a_form_made_from_its_schema(admin: Screen) -> None:
    page = admin.page
    admin.open("plugins")
    row = page.locator('tr[data-plugin="response_filter"]')
    row.get_by_role("button", name="Settings").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Add").click()
    dialog.get_by_label("Name").fill("numbers")
    dialog.get_by_label("Words", exact=True).fill("two\nthree")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    config = admin.call("GET", "plugins/response_filter").json()["plugin"]["config"]
    assert config["settings"]["rules"][0]["words"] == ["two", "three"]

    row.get_by_role("button", name="Load").click()
    expect(row.locator(".badge")).to_have_text("loaded")
    answer = admin.call("POST", "infer", json={"text": "a two b", "max_tokens": 3}).json()
    assert "[redacted]" in answer["result"]["generated_text"]
    row.get_by_role("button", name="Unload").click()
    expect(row.locator(".badge")).to_have_text("available")
    admin.call("PUT", "plugins/response_filter/config", json={"config": {"settings": {}}}).raise_for_status()


def test_a_mistake_in_a_plugins_settings_is_told_at_its_field(admin: Screen) -> None:
    page = admin.page
    admin.expected_loss = True  # the browser itself tells of the 400
    admin.open("plugins")
    page.locator('tr[data-plugin="response_filter"]').get_by_role("button", name="Settings").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Add").click()
    dialog.get_by_label("Pattern").fill("(")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.locator(".mistake")).to_be_visible()


def test_a_request_is_found_and_its_time_explained(admin: Screen) -> None:
    page = admin.page
    done = admin.call("POST", "infer", json={"text": "one two", "max_tokens": 5})
    request_id = done.headers["X-Request-ID"]
    admin.open("requests")
    page.get_by_label("Request").fill(request_id[:12])
    page.get_by_role("button", name=request_id, exact=True).click()
    expect(page.get_by_role("dialog").locator(".stage", has_text="prefill")).to_be_visible()


def test_a_user_is_added_and_sees_only_what_they_may(admin: Screen) -> None:
    page = admin.page
    admin.open("users")
    page.get_by_role("button", name="Add a user").click()
    page.get_by_label("Username").fill("looks-only")
    page.get_by_label("Role").select_option("viewer")
    page.get_by_label("Password").fill("long-enough-0123")
    page.get_by_role("dialog").get_by_role("button", name="Add").click()
    expect(page.locator('tr[data-user="looks-only"]')).to_be_visible()
    page.get_by_role("button", name="Sign out").click()

    admin.sign_in("looks-only", "long-enough-0123")
    links = page.locator("#side nav a").all_inner_texts()
    assert [text.strip() for text in links] == [page.title for page in PAGES if page.permission == "read"]
    admin.open("models")
    expect(page.get_by_role("button", name="Load")).to_have_count(0)
    expect(page.get_by_role("button", name="Add a model")).to_have_count(0)
    admin.expected_loss = True  # the browser itself tells of the 403
    refused = page.evaluate(
        """() => fetch('/api/v1/models/echo/unload',
            {method: 'DELETE', headers: {'X-CSRFToken': document.body.dataset.csrf}}).then(answer => answer.status)"""
    )
    assert refused == 403
    page.goto("/users")
    expect(page.get_by_text("This page is not for your role")).to_be_visible()


def test_logs_are_followed_and_filtered(admin: Screen) -> None:
    page = admin.page
    admin.open("logs")
    done = admin.call("POST", "infer", json={"text": "one", "max_tokens": 2})
    request_id = done.headers["X-Request-ID"]
    expect(page.locator("#lines")).to_contain_text(request_id)
    page.get_by_label("Search").fill("no line says this")
    expect(page.locator("#lines")).to_contain_text("No line is like that")


def test_the_colours_are_chosen_and_kept(admin: Screen) -> None:
    page = admin.page
    ground = "() => getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    page.get_by_label("Colours").select_option("dark")
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark


def test_the_keyboard_reaches_the_content(admin: Screen) -> None:
    page = admin.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#content")).to_be_focused()


@pytest.mark.parametrize("size", ["phone"], indirect=True)
def test_a_phone_opens_the_menu(admin: Screen) -> None:
    page = admin.page
    expect(page.get_by_role("link", name="Models", exact=True)).to_be_hidden()
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Models", exact=True).click()
    expect(page.get_by_role("heading", name="Models", exact=True)).to_be_visible()


def test_a_lost_server_is_told_and_comes_back_without_a_gap(admin: Screen) -> None:
    """Last of all: it ends the web process, which is then started anew."""
    page = admin.page
    page.get_by_text("Live", exact=True).click()
    expect(page.locator("figure canvas").first).to_be_visible()
    admin.expected_loss = True
    pid = admin.site.pid_of("web")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    expect(page.locator("#lost")).to_be_visible()
    expect(page.locator("#lost")).to_be_hidden(timeout=60_000)
    admin.call("POST", "infer", json={"text": "one two three", "max_tokens": 3}).raise_for_status()
    page.wait_for_function("() => parseFloat(document.querySelector('.tile dd').textContent) > 0")
    times = json.loads(page.locator("figure").first.get_attribute("data-times") or "[]")
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert steps, "the chart is empty"
    assert max(steps) < 3 * sorted(steps)[len(steps) // 2], "what came while the server was away is missing"
