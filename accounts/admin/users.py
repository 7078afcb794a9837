"""Users on the admin site. Everything is done by the services that the API calls, so it is audited and acts at once."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminPasswordChangeForm, AdminUserCreationForm
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts import services
from accounts.admin.acting import ServiceRefusals, acting, audit_of, badge
from accounts.models import ApiKey, User
from accounts.selectors import with_key_counts
from common.errors import ApiError


class PasswordWords:
    """Django's forms in words that fit: there is no other way to sign in than a password or a key."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choice = self.fields.get("usable_password")  # type: ignore[attr-defined]  # the form has them
        if choice is None:
            return
        choice.label = "Signs in with"
        choice.help_text = "Users without a password can't come here, and use the API with keys alone."
        choice.widget.choices = [("true", "a password and keys"), ("false", "keys alone")]


class NewUserForm(PasswordWords, AdminUserCreationForm): ...  # type: ignore[type-arg]  # generic in the stubs only


class NewPasswordForm(PasswordWords, AdminPasswordChangeForm): ...  # type: ignore[type-arg]  # as above


@admin.register(User)
class UserAdmin(ServiceRefusals, DjangoUserAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    list_display = ("username", "role", "state", "keys", "last_login")
    form = forms.ModelForm
    add_form = NewUserForm
    change_password_form = NewPasswordForm
    add_form_template = "admin/accounts/new_user.html"
    list_filter = ("role", "is_active", "last_login")
    search_fields = ("username", "email")
    ordering = ("username",)
    filter_horizontal = ()
    readonly_fields = ("password_state", "last_login", "created_at", "keys")
    fieldsets = (
        (None, {"fields": ("username", "password_state", "email")}),
        ("Access", {"fields": ("role", "is_active")}),
        ("Activity", {"fields": ("keys", "last_login", "created_at")}),
    )
    add_fieldsets = ((None, {"fields": ("username", "role", "email", "usable_password", "password1", "password2")}),)
    actions = ("enable", "disable")

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return with_key_counts(super().get_queryset(request))

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> tuple[str, ...]:
        """The name is the user's id in the API and in the audit: it stays."""
        return (*self.readonly_fields, "username") if obj else self.readonly_fields

    @admin.display(description="state", ordering="is_active")
    def state(self, user: User) -> SafeString:
        return badge("Active", "good") if user.is_active else badge("Disabled", "bad")

    @admin.display(description="password")
    def password_state(self, user: User) -> SafeString:
        state = "Set" if user.has_usable_password() else "None: the user has keys alone"
        return format_html('{} · <a href="../password/">Set a new one</a>', state)

    @admin.display(description="active keys", ordering="active_keys")
    def keys(self, user: User) -> SafeString | str:
        if user.pk is None:
            return "–"
        page = reverse("admin:accounts_apikey_changelist")
        return format_html('<a href="{}?owner__id__exact={}">{}</a>', page, user.pk, getattr(user, "active_keys", 0))

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        fields = form.cleaned_data
        if change:
            changes = {name: fields[name] for name in services.CHANGEABLE if name in form.changed_data}
            services.update_user(user=obj, changes=changes, actor=acting(request))
            return
        user = services.create_user(
            username=fields["username"],
            role=fields["role"],
            email=fields["email"],
            password=fields["password1"] if fields["set_usable_password"] else None,
            actor=acting(request),
        )
        obj.pk = user.pk

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002
        with services.noting_a_new_password(user_id=int(id), actor=acting(request)):
            return super().user_change_password(request, id, form_url)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        user = User.objects.filter(pk=object_id).first()
        return audit_of("user", user.username if user else object_id)

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        services.delete_user(user=obj, actor=acting(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user in queryset:
            services.delete_user(user=user, actor=acting(request))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Keys are never deleted by themselves, but they go with their user."""
        to_delete, counts, missing, protected = super().get_deleted_objects(objs, request)
        return to_delete, counts, missing - {ApiKey._meta.verbose_name}, protected

    @admin.action(description="Enable selected users", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        self._set_active(request, queryset, True)

    @admin.action(description="Disable selected users", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        self._set_active(request, queryset, False)

    def _set_active(self, request: HttpRequest, users: QuerySet[User], is_active: bool) -> None:
        for user in users:
            try:
                services.update_user(user=user, changes={"is_active": is_active}, actor=acting(request))
            except ApiError as error:
                self.message_user(request, f"{user.username}: {error.message}", messages.ERROR)
            else:
                self.message_user(request, f"{user.username} is {'active' if is_active else 'disabled'}.")
