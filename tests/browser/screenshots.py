"""Pictures of the dashboard's pages for docs/: `python -m tests.browser.screenshots`, or `make screenshots`.

They are of a server with the demo model that has had some requests and a job.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import httpx
from playwright.sync_api import Page, sync_playwright

from tests.browser import chromium
from tests.running_server import ROOT, RunningServer, running_server

FOLDER = ROOT / "docs" / "images"
SIZE = (1280, 800)
QUESTIONS = (
    "Why is the sky blue?",
    "Name three rivers.",
    "What is a prime number?",
    "Write a haiku about winter.",
    "How does a bicycle stay upright?",
    "What do bees eat?",
)
# Long enough for charts to have something to show.
BUSY_SECONDS = 60.0


def main() -> None:
    program = chromium.find()
    if program is None:
        raise SystemExit(chromium.NONE)
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as server:
        _use(server)
        with sync_playwright() as playwright:
            arguments = ["--no-sandbox"] if os.getuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=program, args=arguments)
            context = browser.new_context(
                viewport={"width": SIZE[0], "height": SIZE[1]}, base_url=server.url, color_scheme="light"
            )
            _take(context.new_page(), server)
            browser.close()


def _use(server: RunningServer) -> None:
    """Some requests over a minute, one that fails, and a job."""
    began = time.monotonic()
    with httpx.Client(base_url=f"{server.url}/api/v1", headers=server.headers, timeout=120) as client:
        lines = "".join(f'{{"id": "{number}", "text": "{text}"}}\n' for number, text in enumerate(QUESTIONS * 2))
        client.post(
            "/jobs",
            content=lines,
            params={"name": "Questions of the week", "max_tokens": 24},
            headers={"Content-Type": "application/x-ndjson"},
        )
        client.post("/keys", json={"name": "Chat in the intranet", "permissions": ["write"]})
        client.post("/plugins/pii_redactor/load", json={})
        for number in range(10_000):
            if time.monotonic() - began > BUSY_SECONDS:
                break
            client.post("/infer", json={"text": QUESTIONS[number % len(QUESTIONS)], "max_tokens": 40})
            time.sleep(1.0)


def _take(page: Page, server: RunningServer) -> None:
    FOLDER.mkdir(exist_ok=True)
    page.goto("/sign-in")
    _save(page, "sign-in")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(server.admin_password)
    page.get_by_role("button", name="Sign in").click()
    links = page.locator("#side nav a")
    links.first.wait_for()
    for address in [link.get_attribute("href") or "/" for link in links.all()]:
        page.goto(address)
        if address == "/playground":
            page.get_by_label("Prompt", exact=True).fill(QUESTIONS[0])
            page.get_by_role("button", name="Send").click()
            page.locator(".turn.assistant .quiet").wait_for(timeout=180_000)
        page.wait_for_timeout(2_500)
        _save(page, address.strip("/") or "overview")


def _save(page: Page, name: str) -> None:
    page.screenshot(path=FOLDER / f"{name}.png")
    sys.stdout.write(f"{(FOLDER / name).relative_to(ROOT)}.png\n")


if __name__ == "__main__":
    main()
