"""Deployments on the admin site: what is where, how it goes, and loading and unloading."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from accounts.admin.acting import acting, badge
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
class DeploymentAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    """Rows are the workers' to write; here they are shown, loaded again and unloaded."""

    list_display = ("model", "place", "shown_state", "memory", "expected", "load_time", "changed_at", "error")
    list_filter = ("state", "origin", "host", "device")
    search_fields = ("model__id", "host", "device")
    actions = ("load_again", "unload", "unload_by_force")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Deployment]:
        return super().get_queryset(request).select_related("model")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [field.name for field in Deployment._meta.fields]

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
