"""Django's admin site with our name on it, and with its sign-ins and password changes in the audit."""

from typing import Any, cast

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from accounts.audit import signed_in
from accounts.models import User
from accounts.services import note_session, noting_a_new_password


class Site(AdminSite):
    site_header = "LLaMA GPU"
    site_title = "LLaMA GPU"
    index_title = "Administration"

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response = super().login(request, extra_context)
        if request.method == "POST" and response.status_code == 302 and isinstance(request.user, User):
            note_session("session.began", user=request.user, actor=signed_in(request.user, request, "password"))
        return response

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        user = request.user
        response = super().logout(request, extra_context)
        if request.method == "POST" and isinstance(user, User):
            note_session("session.ended", user=user, actor=signed_in(user, request))
        return response

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        user = cast(User, request.user)  # the site lets nobody else in
        with noting_a_new_password(user_id=user.pk, actor=signed_in(user, request)):
            return super().password_change(request, extra_context)
