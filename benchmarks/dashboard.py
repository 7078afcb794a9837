"""How soon the dashboard's pages can be used, and what drawing a week of figures costs, in a headless Chromium."""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, Route, sync_playwright

from benchmarks.report import Report, Row, median
from tests.browser import chromium
from tests.running_server import RunningServer, running_server

ROUNDS = 5
_WEEK_MINUTES = 7 * 24 * 60
_SERIES = 3
# What takes a page's thread for longer than this is felt as a hitch.
_LONG_TASKS = """() => { window.longest = 0;
    new PerformanceObserver((list) => { for (const entry of list.getEntries())
        window.longest = Math.max(window.longest, entry.duration); }).observe({ type: "longtask" }); }"""


def pages(report: Report) -> None:
    """Seconds until each page shows what it is about; milliseconds for a week by the minute."""
    program = chromium.find()
    if program is None:
        print(f"left out: {chromium.NONE}")
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), LLAMA_GPU_DEFAULT_MODEL="echo") as server,
        _signed_in(program, server) as page,
    ):
        _use(server)
        rows: list[Row] = []
        for address in _addresses(page):
            rows.append({"benchmark": "dashboard", "page": address, "seconds": round(_until_usable(page, address), 2)})
        week = _week(page)
    report.add(
        f"Seconds until a page shows what it is about (median of {ROUNDS})",
        ("page", "seconds"),
        [(row["page"], row["seconds"]) for row in rows],
        rows,
    )
    drawn: Row = {"benchmark": "dashboard", "week_ms": round(week[0]), "longest_task_ms": round(week[1])}
    report.add(
        f"A week by the minute: {_SERIES} lines of {_WEEK_MINUTES:,} points each, drawn, in ms (median of {ROUNDS})",
        ("drawn after", "longest task"),
        [(drawn["week_ms"], drawn["longest_task_ms"])],
        [drawn],
    )


@contextmanager
def _signed_in(program: str, server: RunningServer) -> Iterator[Page]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        page = browser.new_context(viewport={"width": 1440, "height": 900}, base_url=server.url).new_page()
        page.goto("/sign-in")
        page.get_by_label("Username").fill("admin")
        page.get_by_label("Password").fill(server.admin_password)
        page.get_by_role("button", name="Sign in").click()
        page.locator(".tile").first.wait_for()
        yield page
        browser.close()


def _use(server: RunningServer) -> None:
    with httpx.Client(base_url=f"{server.url}/api/v1", headers=server.headers, timeout=60) as client:
        for _ in range(100):
            client.post("/infer", json={"text": "one two three", "max_tokens": 3}).raise_for_status()


def _addresses(page: Page) -> list[str]:
    return [link.get_attribute("href") or "/" for link in page.locator("#side nav a").all()]


def _until_usable(page: Page, address: str) -> float:
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_function(
            "() => document.querySelector('#theme')?.value && !document.querySelector('[aria-busy]')"
            " && document.querySelector('.tile, table, .lane, .line, .code pre, .empty')"
        )
        rounds.append(time.perf_counter() - began)
    return median(rounds)


def _week(page: Page) -> tuple[float, float]:
    """The charts of a week with as many points as the API has at most: (milliseconds until drawn, longest task)."""
    answer = json.dumps(_week_of_figures())

    def fulfil(route: Route) -> None:
        route.fulfill(body=answer, content_type="application/json")

    page.goto("/")
    page.locator("figure canvas").first.wait_for()
    page.route("**/api/v1/system/metrics?*", fulfil)
    drawn, longest = [], []
    for _ in range(ROUNDS):
        page.get_by_text("1 h", exact=True).click()
        page.wait_for_timeout(300)
        page.evaluate(_LONG_TASKS)
        began = time.perf_counter()
        page.get_by_text("7 d", exact=True).click()
        page.wait_for_function(
            f"() => JSON.parse(document.querySelector('figure').dataset.times).length == {_WEEK_MINUTES}"
        )
        page.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
        drawn.append(1000 * (time.perf_counter() - began))
        longest.append(float(page.evaluate("() => window.longest")))
    return median(drawn), median(longest)


def _week_of_figures() -> dict[str, Any]:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    stamps = [(began + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%SZ") for minute in range(_WEEK_MINUTES)]
    wave = [round(50 + 40 * ((minute * 7919) % 1000) / 1000, 2) for minute in range(_WEEK_MINUTES)]
    names = (
        "request_rate error_rate response_time_p50 response_time_p95 response_time_p99 time_to_first_token_p50 "
        "time_to_first_token_p95 time_to_first_token_p99 tokens_per_second queue_depth queue_depth_max cpu_usage "
        "memory_usage"
    )
    return {"success": True, "gpus": [], "metrics": {"timestamps": stamps, **dict.fromkeys(names.split(), wave)}}
