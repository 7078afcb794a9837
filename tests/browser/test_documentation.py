"""Swagger UI: authorise once, and try things out against this server."""

from playwright.sync_api import Page, expect

from tests.running_server import RunningServer


def test_a_key_authorises_and_an_endpoint_is_tried_out(page: Page, site: RunningServer) -> None:
    page.goto("/api/v1/docs")
    page.get_by_role("button", name="Authorize").first.click()
    dialog = page.locator(".modal-ux")
    dialog.locator("input").first.fill(site.api_key)
    dialog.get_by_role("button", name="Apply credentials").first.click()
    dialog.get_by_role("button", name="Close").first.click()
    operation = page.locator("#operations-Models-list_models")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table .response")
    expect(answer.locator(".response-col_status")).to_have_text("200")
    expect(answer.locator(".response-col_description")).to_contain_text('"success": true')


def test_without_a_key_the_answer_is_401(page: Page) -> None:
    page.goto("/api/v1/docs")
    operation = page.locator("#operations-Models-list_models")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table .response .response-col_status").first).to_contain_text("401")
