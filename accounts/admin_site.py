"""Django's admin site with our name on it, and with its password changes in the audit."""

from typing import Any, cast

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.template.response import TemplateResponse

from accounts.audit import signed_in
from accounts.models import User
from accounts.services import noting_a_new_password


class Site(AdminSite):
    site_header = "LLaMA GPU"
    site_title = "LLaMA GPU"
    index_title = "Administration"

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        user = cast(User, request.user)  # the site lets nobody else in
        with noting_a_new_password(user_id=user.pk, actor=signed_in(user, request)):
            return super().password_change(request, extra_context)
