"""What somebody does on the pages, in their words."""

import re

import httpx
from playwright.sync_api import Locator, Page

from tests.running_server import RunningServer

_TOO_WIDE = """() => {
    const places = document.querySelectorAll('html, #content, #changelist, .results, .module');
    return [...places].filter(place => place.scrollWidth > place.clientWidth + 1)
        .map(place => `${place.id || place.className || place.tagName}: ${place.scrollWidth} > ${place.clientWidth}`);
}"""


class Visitor:
    """`page` is what they look at."""

    def __init__(self, page: Page, site: RunningServer) -> None:
        self.page = page
        self._site = site

    def sign_in(self, password: str) -> None:
        self.page.goto("/admin/")
        self.page.get_by_label("Username").fill("admin")
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()

    def open_list(self, name: str) -> None:
        self.page.goto(f"/admin/{name}/")

    def row(self, text: str) -> Locator:
        """The row of a list with a cell of exactly this text."""
        cell = self.page.get_by_role("cell", name=text, exact=True)
        heading = self.page.get_by_role("rowheader", name=text, exact=True)
        return self.page.locator("#result_list tbody tr").filter(has=heading.or_(cell))

    def act(self, action: str, *names: str) -> None:
        """Select rows of the open list, and run an action on them."""
        for name in names:
            self.row(name).locator("input.action-select").check()
        self.page.get_by_label("Action:").select_option(label=action)
        self.page.get_by_role("button", name="Go", exact=True).click()

    def create_key(self, name: str) -> str:
        """Returns the key as the page shows it."""
        self.page.goto("/admin/accounts/apikey/add/")
        self.page.get_by_label("Name:").fill(name)
        self.page.get_by_role("button", name="Save", exact=True).click()
        return self.shown_key()

    def shown_key(self) -> str:
        return self.page.locator("code.secret").inner_text()

    def messages(self) -> str:
        return self.page.locator(".messagelist").inner_text()

    def too_wide(self) -> list[str]:
        """The parts of the page that are wider than their place."""
        found: list[str] = self.page.evaluate(_TOO_WIDE)
        return found

    def status_with(self, key: str) -> int:
        """How the API answers this key."""
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.get(f"{self._site.url}/api/v1/models", headers=headers, timeout=30).status_code


KEY = re.compile(r"lgpu_[A-Za-z0-9]{8}_[A-Za-z0-9]{40}")
