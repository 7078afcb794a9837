from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.test import AsyncClient, RequestFactory

from accounts.models import AuditEntry, Role, User
from tests.accounts.conftest import bearer, make_key, make_user

pytestmark = pytest.mark.django_db(transaction=True)
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
USERS = "/api/v1/users"


@pytest.fixture
async def browser(clean_redis: str) -> AsyncClient:
    """A browser that is signed in to the admin site, and minds CSRF as a real one."""
    client = AsyncClient(enforce_csrf_checks=True)
    await sync_to_async(client.force_login)(await make_user())
    return client


async def write(client: AsyncClient, path: str, body: Any, **headers: str) -> HttpResponse:
    return await client.post(path, body, content_type="application/json", headers={**BROWSER, **headers})


async def test_a_browser_sees_a_page_with_forms(browser: AsyncClient) -> None:
    response = await browser.get(USERS, headers=BROWSER)
    assert (response.status_code, response["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "The users, page by page." in response.text
    assert "&quot;id&quot;: &quot;ada&quot;" in response.text
    assert 'data-override="content"' in response.text
    assert "default-src 'self'" in response["Content-Security-Policy"]
    assert response["X-RateLimit-Limit"] == "1000"


async def test_programs_get_json_whatever_cookies_they_send(browser: AsyncClient) -> None:
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        assert (await browser.get(USERS, headers=headers)).status_code == 401
    key = await make_key(await make_user(username="bob"))
    assert (await browser.get(USERS, headers=bearer(key))).json()["success"] is True


async def test_a_write_needs_the_csrf_token(browser: AsyncClient) -> None:
    refused = await write(browser, USERS, {"username": "eve"})
    assert refused.status_code == 403
    assert "PERMISSION_DENIED" in refused.text
    request = RequestFactory().get("/")
    token = get_token(request)
    browser.cookies[settings.CSRF_COOKIE_NAME] = request.META["CSRF_COOKIE"]
    made = await write(browser, USERS, {"username": "eve"}, **{"X-CSRFToken": token})
    assert made.status_code == 201
    assert "text/html" in made["Content-Type"]
    assert (await AuditEntry.objects.aget(action="user.created")).credential == "session"


async def test_the_dashboards_pages_bring_the_session_with_the_tokens_header(browser: AsyncClient) -> None:
    request = RequestFactory().get("/")
    token = get_token(request)
    browser.cookies[settings.CSRF_COOKIE_NAME] = request.META["CSRF_COOKIE"]
    read = await browser.get(USERS, headers={"X-CSRFToken": token})
    assert (read.status_code, read["Content-Type"]) == (200, "application/json")
    body = {"username": "eve"}
    for wrong in (token[:-1] + ("a" if token[-1] != "a" else "b"), "anything"):
        headers = {"X-CSRFToken": wrong}
        assert (await browser.post(USERS, body, content_type="application/json", headers=headers)).status_code == 403
    made = await browser.post(USERS, body, content_type="application/json", headers={"X-CSRFToken": token})
    assert made.status_code == 201


async def test_the_tokens_header_alone_opens_nothing(clean_redis: str) -> None:
    assert (await AsyncClient().get(USERS, headers={"X-CSRFToken": "anything"})).status_code == 401


async def test_a_session_ends_with_its_users_rights(browser: AsyncClient) -> None:
    await User.objects.aupdate(role=Role.VIEWER)
    assert (await browser.get(USERS, headers=BROWSER)).status_code == 403
    await User.objects.aupdate(is_active=False)
    assert (await browser.get(USERS, headers=BROWSER)).status_code == 401


async def test_forms_are_shown_for_what_the_caller_may_do_alone(browser: AsyncClient) -> None:
    await User.objects.aupdate(role=Role.VIEWER)
    key = await make_key(await make_user(Role.VIEWER, "bob"), permission="read")
    response = await browser.get("/api/v1/models", headers={**BROWSER, **bearer(key)})
    assert response.status_code == 200
    assert "data-override" not in response.text


async def test_who_is_not_signed_in_is_shown_the_way(clean_redis: str) -> None:
    client = AsyncClient()
    response = await client.get(f"{USERS}?limit=1", headers=BROWSER)
    assert (response.status_code, response["WWW-Authenticate"]) == (401, "Bearer")
    assert "/admin/login/?next=/api/v1/users%3Flimit%3D1" in response.text
    assert "AUTHENTICATION_FAILED" in response.text
    client.cookies[settings.SESSION_COOKIE_NAME] = "made-up"
    assert (await client.get(USERS, headers=BROWSER)).status_code == 401


async def test_what_a_page_shows_is_escaped(browser: AsyncClient) -> None:
    await User.objects.acreate(username="x", email="<script>alert(1)</script>")
    assert "<script>alert" not in (await browser.get(USERS, headers=BROWSER)).text
