"""Plugins on Django's admin site: every installed one, with its state and its configuration."""

import json
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.csrf import csrf_protect

from accounts.admin.acting import audit_of, badge
from accounts.audit import SERVER, Actor, signed_in
from accounts.models import User
from common.errors import ApiError
from plugins_app.discovery import installed
from plugins_app.hookspecs import PluginInfo
from plugins_app.models import Plugin
from plugins_app.selectors import KnownPlugin, find_plugin, new_row
from plugins_app.services import configure_plugin, load_plugin, unload_plugin

_STATES = {"loaded": "good", "failed": "bad", "available": "quiet"}
_CONFIG = (
    "enabled",
    "priority",
    "settings",
    "on_error",
    "slow_seconds",
    "timeout_seconds",
    "max_failures",
    "retry_seconds",
)


class Indented(json.JSONEncoder):
    """Settings as people write them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "indent": 2})


class PluginForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs only
    """Saves through the services, while it is validated: what they refuse is shown at its field."""

    actor = SERVER
    settings = forms.JSONField(
        required=False,
        encoder=Indented,
        widget=forms.Textarea(attrs={"rows": 14, "cols": 90, "style": "font-family: monospace"}),
        help_text="JSON, as the settings schema below says.",
    )

    class Meta:
        model = Plugin
        fields = ("loaded", *_CONFIG)

    def clean_settings(self) -> Any:
        """Nothing written: the defaults."""
        return {} if self.cleaned_data["settings"] is None else self.cleaned_data["settings"]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if self.errors:
            return cleaned
        # What was not changed here may have been elsewhere, since the page was opened.
        config = {name: cleaned[name] for name in _CONFIG if name in self.changed_data}
        try:
            known = find_plugin(self.instance.pk)
            if cleaned["loaded"]:
                known = load_plugin(plugin_id=self.instance.pk, config=config or None, actor=self.actor)
            else:
                if config:
                    known = configure_plugin(plugin_id=self.instance.pk, config=config, actor=self.actor)
                unload_plugin(plugin_id=self.instance.pk, actor=self.actor)
        except ApiError as error:
            self._refuse(error)
        else:
            self.cleaned_data["settings"] = known.row.settings
        return cleaned

    def _refuse(self, error: ApiError) -> None:
        field = str(error.details.get("field", "")).removeprefix("config.")
        name, _, place = field.partition(".")
        sentence = error.details.get("error") or error.message
        message = f"{place}: {sentence}" if place else str(sentence)
        self.add_error(name if name in self.fields else None, message)


@admin.register(Plugin)
class PluginAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    """Plugins are installed with pip, so none is added or deleted here."""

    form = PluginForm
    list_display = ("id", "version", "category", "state_badge", "enabled", "priority", "circuit_now")
    list_filter = ("loaded", "circuit")
    search_fields = ("id",)
    actions = ("load", "unload")
    about = ("title", "version", "category", "author", "description", "package")
    state = ("circuit_now", "circuit_opened_at", "last_error", "last_error_at", "loaded_at", "set_up_in")
    readonly_fields = ("id", *about, *state, "schema")
    fieldsets = (
        (None, {"fields": ("id", *about)}),
        ("Configuration", {"fields": ("loaded", *_CONFIG)}),
        ("State", {"fields": state}),
        ("Settings schema", {"fields": ("schema",), "classes": ("collapse",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Plugin]:
        """Installed plugins alone, each with a row to show."""
        found = installed()
        rows = (new_row(plugin) for plugin in found.values())
        Plugin.objects.bulk_create(rows, ignore_conflicts=True)
        return super().get_queryset(request).filter(pk__in=list(found))

    @method_decorator(csrf_protect)
    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Without the transaction around it, in which the workers would not see what they are to try; the services
        have their own."""
        return self._changeform_view(request, object_id, form_url, extra_context)  # type: ignore[attr-defined]

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return audit_of("plugin", unquote(object_id))

    def get_form(
        self, request: HttpRequest, obj: Plugin | None = None, change: bool = False, **kwargs: Any
    ) -> type[forms.ModelForm]:  # type: ignore[type-arg]  # as above
        form = super().get_form(request, obj, change=change, **kwargs)
        return type("SignedPluginForm", (form,), {"actor": _actor(request)})

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Plugin | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Plugin, form: Any, change: bool) -> None:
        """The form has saved it; only what the services wrote is to be shown."""
        obj.refresh_from_db()

    @admin.action(description="Load the selected plugins", permissions=["change"])
    def load(self, request: HttpRequest, queryset: QuerySet[Plugin]) -> None:
        for row in queryset:
            try:
                load_plugin(plugin_id=row.pk, actor=_actor(request))
            except ApiError as error:
                sentence = error.details.get("error") or error.message
                self.message_user(request, f"{row.pk}: {sentence}", messages.ERROR)
            else:
                self.message_user(request, f"{row.pk} is loaded.", messages.SUCCESS)

    @admin.action(description="Unload the selected plugins", permissions=["change"])
    def unload(self, request: HttpRequest, queryset: QuerySet[Plugin]) -> None:
        for row in queryset:
            unload_plugin(plugin_id=row.pk, actor=_actor(request))
        self.message_user(request, f"{len(queryset)} plugins are unloaded.", messages.SUCCESS)

    @admin.display(description="name")
    def title(self, row: Plugin) -> str:
        return _info(row).name

    @admin.display
    def version(self, row: Plugin) -> str:
        return _info(row).version

    @admin.display
    def category(self, row: Plugin) -> str:
        return _info(row).category

    @admin.display
    def author(self, row: Plugin) -> str:
        return _info(row).author

    @admin.display
    def description(self, row: Plugin) -> str:
        return _info(row).description

    @admin.display
    def package(self, row: Plugin) -> str:
        known = installed()[row.pk]
        return f"{known.package}: {known.error}" if known.error else known.package

    @admin.display(description="state", ordering="loaded")
    def state_badge(self, row: Plugin) -> SafeString:
        status = KnownPlugin(installed()[row.pk], row).status
        return badge(status.capitalize(), _STATES[status])

    @admin.display(description="circuit", ordering="circuit")
    def circuit_now(self, row: Plugin) -> SafeString | str:
        state = row.circuit_state(timezone.now())
        return "closed" if state == "closed" else badge(state.replace("_", "-").capitalize(), "bad")

    @admin.display(description="set up in")
    def set_up_in(self, row: Plugin) -> str:
        return "-" if row.load_time is None else f"{row.load_time:.3f} s"

    @admin.display(description="JSON Schema")
    def schema(self, row: Plugin) -> str:
        return format_html("<pre>{}</pre>", json.dumps(_info(row).settings_schema, indent=2))


def _actor(request: HttpRequest) -> Actor:
    return signed_in(request.user, request) if isinstance(request.user, User) else SERVER


def _info(row: Plugin) -> PluginInfo:
    return installed()[row.pk].info
