"""What the admin pages of accounts share: who acts, and refusals of the services shown as messages."""

from collections.abc import Callable
from typing import Any, cast

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from accounts.audit import Actor, signed_in
from accounts.models import User
from common.errors import ApiError


def acting(request: HttpRequest) -> Actor:
    """The administrator who is signed in."""
    return signed_in(cast(User, request.user), request)  # the site lets nobody else in


def badge(text: str, kind: str) -> SafeString:
    """A short state as a coloured label; `kind`: good, bad, warn or quiet."""
    return format_html('<span class="badge badge-{}">{}</span>', kind, text)


def audit_of(target_type: str, target_id: str | int) -> HttpResponseRedirect:
    """What was done to one user or key, by whomever and from wherever; Django's own history knows this site alone."""
    query = urlencode({"target_type__exact": target_type, "target_id__exact": target_id})
    return HttpResponseRedirect(f"{reverse('admin:accounts_auditentry_changelist')}?{query}")


class ServiceRefusals:
    """Mixed in before a ModelAdmin: an error that a service raises is told on the page that the request came from."""

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._or_told(request, super().changeform_view, args, kwargs)  # type: ignore[misc]

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._or_told(request, super().delete_view, args, kwargs)  # type: ignore[misc]

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._or_told(request, super().changelist_view, args, kwargs)  # type: ignore[misc]

    @staticmethod
    def _or_told(
        request: HttpRequest, view: Callable[..., HttpResponse], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except ApiError as error:
            messages.error(request, error.message)
            return HttpResponseRedirect(request.get_full_path())
