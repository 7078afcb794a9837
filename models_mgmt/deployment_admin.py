"""Deployments on the admin site: what is where, how it goes, and loading and unloading."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from accounts.admin.acting import acting, audit_of, badge
from accounts.admin.reading import ReadOnlyAdmin
from common.byte_sizes import format_bytes
from common.errors import ApiError
from models_mgmt.deployments import LoadOptions, request_load, request_unload
from models_mgmt.models import Deployment, Model

State = Deployment.State
_BADGES = {
    State.LOADED: "good",
    State.REQUESTED: "warn",
    State.LOADING: "warn",
    State.UNLOADING: "warn",
    State.FAILED: "bad",
    State.LOST: "bad",
    State.UNLOADED: "quiet",
}


@admin.action(description="Load")
def load_models(modeladmin: Any, request: HttpRequest, queryset: QuerySet[Model]) -> None:
    """For the list of models: load those that are selected, each where it fits best."""
    for model in queryset:
        _try(modeladmin, request, f"{model.pk} is being loaded.", lambda model=model: _load(model, request))


@admin.action(description="Unload, when what runs has ended")
def unload_models(modeladmin: Any, request: HttpRequest, queryset: QuerySet[Model]) -> None:
    for model in queryset:
        _try(
            modeladmin,
            request,
            f"{model.pk} is being unloaded.",
            lambda model=model: request_unload(model, actor=acting(request)),
        )


@admin.register(Deployment)
class DeploymentAdmin(ReadOnlyAdmin):
    """Rows are the workers' to write; here they are shown, loaded again and unloaded."""

    list_display = ("model", "place", "shown_state", "memory", "expected", "seconds", "changed_at", "short_error")
    list_filter = ("state", "origin", "host", "device")
    search_fields = ("model__id", "host", "device")
    search_help_text = "By model, host or device."
    actions = ("load_again", "unload", "unload_by_force")
    fieldsets = (
        (None, {"fields": ("model", "place", "shown_state", "told_error")}),
        ("Asked for", {"fields": ("origin", "quantization", "context", "limit", "unloads_first")}),
        ("Measured", {"fields": ("expected", "memory", "seconds")}),
        ("Dates", {"fields": ("requested_at", "changed_at", "loaded_at")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Deployment]:
        return super().get_queryset(request).select_related("model")

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """What is done to a deployment is noted at its model."""
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        return audit_of("model", row.model_id)

    @admin.display(description="place", ordering="host")
    def place(self, row: Deployment) -> str:
        return f"{row.host}/{'+'.join(row.devices or [row.device])}"

    @admin.display(description="state", ordering="state")
    def shown_state(self, row: Deployment) -> SafeString:
        return badge(row.get_state_display(), _BADGES[State(row.state)])

    @admin.display(description="memory", ordering="measured_bytes")
    def memory(self, row: Deployment) -> str:
        held = row.measured_bytes if row.state == State.LOADED else None
        return format_bytes(held) if held else "–"

    @admin.display(description="expected", ordering="estimated_bytes")
    def expected(self, row: Deployment) -> str:
        return format_bytes(row.estimated_bytes) if row.estimated_bytes else "–"

    @admin.display(description="load time", ordering="load_time")
    def seconds(self, row: Deployment) -> str:
        return "–" if row.load_time is None else f"{row.load_time:.1f} s"

    @admin.display(description="error", ordering="error")
    def short_error(self, row: Deployment) -> str:
        return Truncator(row.error).chars(80) or "–"

    @admin.display(description="error")
    def told_error(self, row: Deployment) -> str:
        return f"{row.error} ({row.error_code})" if row.error_code else row.error or "–"

    @admin.display(description="context")
    def context(self, row: Deployment) -> str:
        return f"{row.context_length:,} tokens" if row.context_length else "as the model has it"

    @admin.display(description="memory at most")
    def limit(self, row: Deployment) -> str:
        return format_bytes(row.max_memory_bytes) if row.max_memory_bytes else "no limit"

    @admin.display(description="unloads first")
    def unloads_first(self, row: Deployment) -> str:
        return ", ".join(row.evicts) or "–"

    @admin.action(description="Load there")
    def load_again(self, request: HttpRequest, queryset: QuerySet[Deployment]) -> None:
        for row in queryset:
            there = LoadOptions(
                quantization=row.quantization,
                context_length=row.context_length,
                devices=tuple(f"{row.host}/{device}" for device in row.devices or [row.device]),
            )
            _try(
                self,
                request,
                f"{row} is being loaded.",
                lambda row=row, there=there: request_load(row.model, there, actor=acting(request)),
            )

    @admin.action(description="Unload, when what runs has ended")
    def unload(self, request: HttpRequest, queryset: QuerySet[Deployment]) -> None:
        self._unload(request, queryset, force=False)

    @admin.action(description="Unload at once; what runs fails")
    def unload_by_force(self, request: HttpRequest, queryset: QuerySet[Deployment]) -> None:
        self._unload(request, queryset, force=True)

    def _unload(self, request: HttpRequest, queryset: QuerySet[Deployment], *, force: bool) -> None:
        for row in queryset:
            place = f"{row.host}/{row.device}"
            _try(
                self,
                request,
                f"{row} is being unloaded.",
                lambda row=row, place=place: request_unload(
                    row.model, device=place, force=force, actor=acting(request)
                ),
            )


def _load(model: Model, request: HttpRequest) -> None:
    request_load(model, LoadOptions(), actor=acting(request))


def _try(modeladmin: Any, request: HttpRequest, done: str, work: Any) -> None:
    try:
        work()
    except ApiError as error:
        modeladmin.message_user(request, error.message, messages.ERROR)
    else:
        modeladmin.message_user(request, done, messages.SUCCESS)
