"""API keys on the admin site. A new key is shown on the page that answers, and nowhere else."""

from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString

from accounts.admin.acting import ServiceRefusals, acting, audit_of, badge
from accounts.caller import LEVELS
from accounts.keys import CHANGEABLE, create_api_key, revoke_api_key, rotate_api_key, update_api_key
from accounts.models import ApiKey, Role
from accounts.selectors import in_state
from common.errors import ApiError

_STATE_KINDS = {ApiKey.State.ACTIVE: "good", ApiKey.State.EXPIRED: "warn", ApiKey.State.REVOKED: "bad"}
GRACE_TIMES = (
    (0, "not at all: the old key ends now"),
    (3600, "for an hour"),
    (86400, "for a day"),
    (7 * 86400, "for a week"),
    (30 * 86400, "for 30 days"),
)
NEW_KEYS = "new_api_keys"


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state.value, state.label) for state in ApiKey.State]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        return queryset.filter(in_state(self.value())) if self.value() else queryset  # type: ignore[arg-type]


class KeyForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs only
    class Meta:
        model = ApiKey
        fields = ("owner", *CHANGEABLE)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk and "permission" in self.fields:
            narrower = LEVELS[: LEVELS.index(self.instance.level) + 1]
            choices = [choice for choice in ApiKey.PermissionLevel.choices if choice[0] in narrower]
            self.fields["permission"].choices = choices  # type: ignore[attr-defined]
            self.fields["permission"].help_text = "Permissions can only be narrowed; for more, make a new key."

    def clean(self) -> dict[str, Any]:
        fields = super().clean() or {}
        owner, permission = fields.get("owner"), fields.get("permission")
        if owner and permission and permission not in owner.permissions:
            self.add_error("permission", f"{owner.username} is {Role(owner.role).label.lower()} and can't do that.")
        return fields


class RotateForm(forms.Form):
    grace = forms.TypedChoiceField(label="The old ones work on", choices=GRACE_TIMES, coerce=int, initial=86400)


@admin.register(ApiKey)
class ApiKeyAdmin(ServiceRefusals, admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    form = KeyForm
    list_display = ("name", "owner", "prefix", "permission", "tier", "state_badge", "last_used_at", "expires_at")
    list_filter = (StateFilter, "permission", "tier", "owner__role")
    list_select_related = ("owner",)
    search_fields = ("name", "prefix", "owner__username")
    search_help_text = "By name, owner, or the visible part of the key."
    ordering = ("-id",)
    autocomplete_fields = ("owner",)
    actions = ("rotate", "revoke")
    change_form_template = "admin/accounts/key_form.html"
    _kept = ("prefix", "state_badge", "created_at", "last_used_at", "rotated_at", "old_ends_at", "revoked_at")

    def get_fieldsets(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        what = (None, {"fields": ("owner", "name", "permission", "tier", "expires_at")})
        budget = ("Token budget", {"fields": ("token_budget", "token_budget_window")})
        return (what, budget, ("Key", {"fields": self._kept})) if obj else (what, budget)

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        return (*self._kept, "owner") if obj else ()

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"owner": request.user.pk, **super().get_changeform_initial_data(request)}

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Users are made and changed on their own pages."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if field is not None:
            for icon in ("add", "change", "view", "delete"):
                setattr(field.widget, f"can_{icon}_related", False)
        return field

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Saving a new key leads to the page that shows it, whatever the button."""
        if kwargs.get("add"):
            context |= {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().render_change_form(request, context, *args, **kwargs)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return audit_of("key", object_id)

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """Keys are revoked instead, so that the audit and the usage keep their names."""
        return False

    def get_actions(self, request: HttpRequest) -> Any:
        """One action for each tier of this installation."""
        found = super().get_actions(request)
        for tier in settings.TIERS:
            found[f"tier_{tier}"] = (_tier_action(tier), f"tier_{tier}", f"Set the tier of selected keys to {tier}")
        return found

    @admin.display(description="state")
    def state_badge(self, key: ApiKey) -> SafeString:
        return badge(key.state.label, _STATE_KINDS[key.state])

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        fields = form.cleaned_data
        if change:
            changes = {name: fields[name] for name in CHANGEABLE if name in form.changed_data}
            update_api_key(key=obj, changes=changes, actor=acting(request))
            return
        made = {name: fields[name] for name in CHANGEABLE}
        row, key = create_api_key(owner=fields["owner"], **made, actor=acting(request))
        obj.pk, obj.prefix = row.pk, row.prefix
        setattr(request, NEW_KEYS, [(row, key)])

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        return self._shown_once(request, getattr(request, NEW_KEYS))

    @admin.action(description="Rotate selected keys …", permissions=["change"])
    def rotate(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        """Ask for the grace time first; then show the new keys."""
        form = RotateForm(request.POST if "grace" in request.POST else None)
        if not form.is_valid():
            context = {"keys": queryset, "form": form, "title": "Rotate keys"}
            return self._page(request, "admin/accounts/rotate.html", context)
        grace = timedelta(seconds=form.cleaned_data["grace"])
        rotated = []
        for key in queryset:
            try:
                rotated.append(rotate_api_key(key=key, actor=acting(request), grace=grace))
            except ApiError as error:
                self.message_user(request, f"{key}: {error.message}", messages.ERROR)
        return self._shown_once(request, rotated) if rotated else None

    @admin.action(description="Revoke selected keys", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for key in queryset:
            revoke_api_key(key=key, actor=acting(request))
        self.message_user(request, f"{len(queryset)} revoked. They open nothing any more.", messages.SUCCESS)

    def _shown_once(self, request: HttpRequest, keys: list[tuple[ApiKey, str]]) -> HttpResponse:
        title = "The new key" if len(keys) == 1 else "The new keys"
        response = self._page(request, "admin/accounts/new_keys.html", {"keys": keys, "title": title})
        response.headers["Cache-Control"] = "no-store"
        return response

    def _page(self, request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
        return TemplateResponse(
            request, template, {**self.admin_site.each_context(request), "opts": self.opts, **context}
        )


def _tier_action(tier: str) -> Any:
    def set_tier(model_admin: ApiKeyAdmin, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for key in queryset:
            update_api_key(key=key, changes={"tier": tier}, actor=acting(request))
        model_admin.message_user(request, f"{len(queryset)} now {tier}.", messages.SUCCESS)

    return set_tier
