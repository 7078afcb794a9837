"""The API's own pages: read, and written to with the session of the admin site."""

from playwright.sync_api import Page, expect

from tests.browser.visitor import Visitor


def test_a_signed_in_browser_makes_a_user_with_a_form(visitor: Visitor) -> None:
    page = visitor.page
    page.goto("/api/v1/users")
    content = page.locator("textarea[name=_content]").first
    if not content.is_visible():
        page.get_by_role("link", name="Raw data").first.click()
    content.fill('{"username": "from-a-page", "password": "long-enough-0123", "role": "viewer"}')
    with page.expect_response(lambda response: response.request.method == "POST") as answered:
        page.get_by_role("button", name="POST").first.click()
    assert answered.value.status == 201
    assert answered.value.request.headers.get("x-csrftoken") or "csrfmiddlewaretoken" in (
        answered.value.request.post_data or ""
    )
    expect(page.locator(".response-info")).to_contain_text("HTTP 201 Created")
    assert visitor.too_wide() == []


def test_a_write_without_the_token_is_refused(visitor: Visitor) -> None:
    """As another site's page would send it."""
    page = visitor.page
    page.goto("/api/v1/users")
    status = page.evaluate(
        """() => fetch('/api/v1/users', {
            method: 'POST', body: '{"username": "eve"}',
            headers: {'Content-Type': 'application/json', 'Accept': 'text/html'},
        }).then(response => response.status)"""
    )
    assert status == 403


def test_who_is_not_signed_in_is_shown_the_way(page: Page) -> None:
    page.goto("/api/v1/users")
    page.get_by_role("link", name="Sign in").first.click()
    expect(page.get_by_label("Username")).to_be_visible()
