"""The registry on the admin site. Everything is done by the services that the API calls, so it is audited, too."""

from typing import Any

import redis
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts.admin.acting import ServiceRefusals, acting, audit_of, badge
from common.byte_sizes import format_bytes
from common.errors import ApiError
from common.short_memory import ShortMemory
from models_mgmt import services
from models_mgmt.admin.forms import ModelForm, NewModelForm
from models_mgmt.deployment_admin import load_models, unload_models
from models_mgmt.expected_memory import best_kind, expected_memory
from models_mgmt.facts import shape_of
from models_mgmt.live import LiveModel, with_workers
from models_mgmt.models import Deployment, Model
from models_mgmt.presence import ModelState, WorkerReport, live_workers
from models_mgmt.selectors import known_deployments
from models_mgmt.serializers import shown_source

_STATES: dict[ModelState, str] = {
    "loaded": "good", "loading": "warn", "unloading": "warn", "failed": "bad", "lost": "bad", "available": "quiet",
}  # fmt: skip


_remembered: ShortMemory[str, list[WorkerReport]] = ShortMemory(seconds=0.5, size=1)
_deployments: ShortMemory[str, list[Deployment]] = ShortMemory(seconds=0.5, size=1)


def _workers() -> list[WorkerReport]:
    """The workers, asked for once for all rows of a page; none while Redis is away."""
    workers = _remembered.recall("")
    if workers is None:
        try:
            workers = live_workers()
        except redis.RedisError:
            workers = []
        _remembered.keep("", workers)
    return workers


def forget_workers() -> None:
    """Ask for them anew the next time."""
    _remembered.clear()
    _deployments.clear()


def _live(model: Model) -> LiveModel:
    (live,) = with_workers([model], _workers(), _deployed())
    return live


def _deployed() -> list[Deployment]:
    """The deployments of all models, asked for once for all rows of a page."""
    deployed = _deployments.recall("")
    if deployed is None:
        deployed = list(known_deployments())
        _deployments.keep("", deployed)
    return deployed


@admin.register(Model)
class ModelAdmin(ServiceRefusals, admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    list_display = ("id", "marks", "state", "size", "type", "comes_from", "memory_short", "other_names")
    list_filter = ("type", "source_kind", "enabled", "pinned")
    search_fields = ("id", "name", "architecture", "aliases__name")
    form = ModelForm
    actions = (load_models, unload_models, "make_default", "pin", "unpin", "enable", "disable")
    readonly_fields = (
        "id", "state", "comes_from", "source_kind", "commit", "architecture", "counts", "stored_as", "memory",
        "capabilities", "created_at", "updated_at",
    )  # fmt: skip
    add_fieldsets = (
        (None, {"fields": ("source", "source_kind", "revision")}),
        ("Names", {"fields": ("id", "name", "aliases", "is_default")}),
        ("Loading", {"fields": ("pinned",)}),
        ("Trust", {"fields": ("trust_remote_code", "allow_pickle")}),
    )
    change_fieldsets = (
        (None, {"fields": ("id", "state", "name", "aliases", "is_default", "enabled")}),
        ("Source", {"fields": ("source_kind", "comes_from", "revision", "commit")}),
        ("Facts", {"fields": ("architecture", "type", "counts", "stored_as", "capabilities")}),
        ("Loading", {"fields": ("memory", "pinned")}),
        ("Trust", {"fields": ("trust_remote_code", "allow_pickle")}),
        ("Dates", {"fields": ("created_at", "updated_at")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        return super().get_queryset(request).prefetch_related("aliases")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, **kwargs) if obj else NewModelForm

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return self.add_fieldsets
        if obj.source_kind == Model.SourceKind.HUB:
            return self.change_fieldsets
        hubs = ("revision", "commit")
        return [
            (title, {"fields": [field for field in group["fields"] if field not in hubs]})
            for title, group in self.change_fieldsets
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.readonly_fields if obj else ()

    # ------------------------------------------------------------ columns

    @admin.display(description="state")
    def state(self, model: Model) -> SafeString:
        live = _live(model)
        label = badge(live.state.capitalize(), _STATES[live.state])
        if not (live.places or live.lost_on):
            return label
        lost = f" (lost on {', '.join(live.lost_on)})" if live.lost_on else ""
        return format_html("{} {}{}", label, ", ".join(live.places), lost)

    @admin.display(description="source", ordering="source")
    def comes_from(self, model: Model) -> str:
        return shown_source(model) or "–"

    @admin.display(description="memory")
    def memory(self, model: Model) -> str:
        measured = _live(model).memory_bytes
        expected = expected_memory(model, best_kind(_workers()))
        parts = [f"{format_bytes(measured)} measured"] if measured else []
        parts += [f"{format_bytes(expected.estimate.total)} expected ({expected.precision})"] if expected else []
        return ", ".join(parts) or "–"

    @admin.display(description="memory")
    def memory_short(self, model: Model) -> str:
        measured = _live(model).memory_bytes
        expected = expected_memory(model, best_kind(_workers()))
        return format_bytes(measured) if measured else f"~{format_bytes(expected.estimate.total)}" if expected else "–"

    @admin.display(description="aliases")
    def other_names(self, model: Model) -> str:
        return ", ".join(alias.name for alias in model.aliases.all()) or "–"

    @admin.display(description="marks")
    def marks(self, model: Model) -> SafeString | str:
        marks = [
            (badge("Default", "good"), model.is_default),
            (badge("Pinned", "quiet"), model.pinned),
            (badge("Disabled", "bad"), not model.enabled),
            (badge("Remote code", "warn"), model.trust_remote_code),
            (badge("Pickles", "warn"), model.allow_pickle),
        ]
        return format_html_join(" ", "{}", ((mark,) for mark, applies in marks if applies)) or "–"

    @admin.display(description="sizes")
    def counts(self, model: Model) -> str:
        if not model.parameters:
            return "Not known before its files are here"
        return (
            f"{model.parameters:,} parameters, vocabulary of {model.vocab_size or 0:,}, "
            f"context of {model.context_length or 0:,} tokens"
        )

    @admin.display(description="stored as")
    def stored_as(self, model: Model) -> str:
        shape = shape_of(model.shape)
        return f"{shape.gguf_type or shape.dtype}, {format_bytes(shape.weight_bytes)} on disk" if shape else "–"

    # ------------------------------------------------------------ changes

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        fields = dict(form.cleaned_data)
        if "is_default" in fields:
            fields["default"] = fields.pop("is_default")
        if not change:
            options = {name: fields[name] for name in fields if name not in ("source", "source_kind", "revision")}
            obj.pk = services.register_model(form.described, **options, actor=acting(request)).pk
            return
        changed = {"default" if name == "is_default" else name for name in form.changed_data}
        changes = {name: value for name, value in fields.items() if name in changed and name != "revision"}
        services.update_model(obj.pk, changes, described=form.described, actor=acting(request))

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        forget_workers()  # what is shown may be a moment old, what is decided by may not
        services.delete_model(obj.pk, held_by=_live(obj).places, actor=acting(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        for model in queryset:
            self.delete_model(request, model)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Aliases go with their model; nobody needs a permission for them."""
        to_delete, counts, _, protected = super().get_deleted_objects(objs, request)
        return to_delete, counts, set(), protected

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return audit_of("model", object_id)

    @admin.action(description="Make the selected model the default", permissions=["change"])
    def make_default(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        if queryset.count() != 1:
            self.message_user(request, "Select one model; only one can be the default.", messages.ERROR)
            return
        self._change(request, queryset, {"default": True}, "is the default")

    @admin.action(description="Pin selected models", permissions=["change"])
    def pin(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        self._change(request, queryset, {"pinned": True}, "is pinned")

    @admin.action(description="Unpin selected models", permissions=["change"])
    def unpin(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        self._change(request, queryset, {"pinned": False}, "is no longer pinned")

    @admin.action(description="Enable selected models", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        self._change(request, queryset, {"enabled": True}, "is enabled")

    @admin.action(description="Disable selected models", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        self._change(request, queryset, {"enabled": False}, "is disabled")

    def _change(self, request: HttpRequest, models: QuerySet[Model], changes: dict[str, Any], done: str) -> None:
        for model in models:
            try:
                services.update_model(model.pk, changes, actor=acting(request))
            except ApiError as error:
                self.message_user(request, f"{model.pk}: {error.message}", messages.ERROR)
            else:
                self.message_user(request, f"{model.pk} {done}.")
