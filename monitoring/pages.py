"""The dashboard: pages for browsers whose figures come from the API, with the session of who is signed in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.views import LoginView
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render, resolve_url
from django.urls import URLPattern, path
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache

from accounts.caller import LEVELS, Permission
from accounts.models import User
from common.logging import COMPONENTS


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the dashboard: its template is `dashboard/<name>.html`, its module `dashboard/pages/<name>.js`."""

    name: str
    title: str
    address: str
    permission: Permission = "read"


PAGES = (
    Page("overview", "Overview", ""),
    Page("playground", "Playground", "playground", "write"),
    Page("models", "Models", "models"),
    Page("jobs", "Jobs", "jobs", "write"),
    Page("requests", "Requests", "requests"),
    Page("plugins", "Plugins", "plugins"),
    Page("keys", "API keys", "keys"),
    Page("users", "Users", "users", "admin"),
    Page("logs", "Logs", "logs", "admin"),
    Page("start", "Quick start", "start"),
)


def page_urls() -> list[URLPattern]:
    return [path(page.address, _view_of(page), name=f"page-{page.name}") for page in PAGES]


def _view_of(page: Page) -> Callable[[HttpRequest], HttpResponseBase]:
    def view(request: HttpRequest) -> HttpResponseBase:
        user = request.user
        if isinstance(user, AnonymousUser):
            return redirect(f"{resolve_url('sign-in')}?{urlencode({'next': request.path})}")
        context = _context(user, page)
        if page.permission not in user.permissions:
            return render(request, "dashboard/refused.html", context, status=403)
        return render(request, f"dashboard/{page.name}.html", context)

    return never_cache(view)


def _context(user: User, page: Page) -> dict[str, Any]:
    return {
        "page": page,
        "pages": [other for other in PAGES if other.permission in user.permissions],
        "permissions": [level for level in LEVELS if level in user.permissions],
        "components": COMPONENTS,
        "version": settings.VERSION,
    }


class SignIn(LoginView):
    """For every role; the admin site's own is for administrators."""

    template_name = "dashboard/sign_in.html"
    redirect_authenticated_user = True
    next_page = "page-overview"
