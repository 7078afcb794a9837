"""A headless Chromium and a server of its own for the tests of pages.

LLAMA_GPU_TEST_SCREENSHOTS=FOLDER keeps a picture of how each test ended.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser import chromium
from tests.browser.visitor import Visitor
from tests.running_server import RunningServer, running_server


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with the echo model that lets many sign in."""
    with running_server(
        tmp_path_factory.mktemp("site"),
        LLAMA_GPU_DEFAULT_MODEL="echo",
        LLAMA_GPU_LOGIN_ATTEMPTS_PER_MINUTE="1000",
    ) as running:
        yield running


# Of the package and no longer: while Playwright runs, no other test could run an event loop.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    program = chromium.find()
    if program is None:
        pytest.skip(chromium.NONE)
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, site: RunningServer, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of a browser without cookies, 1280 pixels wide; scripts that fail fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, base_url=site.url)
    context.set_default_timeout(15_000)
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda message: failures.append(message.text) if "Content Security" in message.text else None)
    yield page
    if folder := os.environ.get("LLAMA_GPU_TEST_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{request.node.name}.png".replace("/", "-"), full_page=True)
    context.close()
    assert failures == []


@pytest.fixture
def visitor(page: Page, site: RunningServer) -> Visitor:
    """The administrator, signed in."""
    visitor = Visitor(page, site)
    visitor.sign_in(site.admin_password)
    return visitor
