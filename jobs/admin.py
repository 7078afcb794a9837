"""Jobs on Django's admin site: how they stand, and a way to end them."""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.admin.acting import badge
from common.errors import Conflict
from jobs.models import Job, WebhookDelivery
from jobs.services import cancel

_LOOKS = {"completed": "good", "failed": "bad", "expired": "bad", "cancelled": "quiet"}


class DeliveryInline(admin.TabularInline):  # type: ignore[type-arg]  # generic in the stubs only
    model = WebhookDelivery
    fields = readonly_fields = ("event", "url", "state", "attempts", "last_status", "last_error", "next_at")
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        return False


@admin.register(Job)
class JobAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    """Jobs come through the API; here they are looked at, cancelled and deleted. Prompts and answers are not shown."""

    list_display = ("id", "owner", "kind", "model", "state_badge", "progress", "created_at")
    list_filter = ("state", "kind")
    list_select_related = ("owner",)
    search_fields = ("id", "name", "owner__username")
    actions = ("cancel",)
    inlines = (DeliveryInline,)
    fields = readonly_fields = (
        "id",
        "name",
        "owner",
        "key_prefix",
        "kind",
        "model",
        "state_badge",
        "progress",
        "completed",
        "failed",
        "cancelled",
        "prompt_tokens",
        "completion_tokens",
        "waits_for",
        "error",
        "webhook_url",
        "created_at",
        "started_at",
        "ended_at",
        "expires_at",
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        return obj is None and super().has_change_permission(request)  # for the action alone

    @admin.action(description="Cancel the selected jobs", permissions=["change"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        ended = 0
        for job in queryset:
            try:
                cancel(job)
            except Conflict as error:
                self.message_user(request, f"{job.pk}: {error.message}", messages.WARNING)
            else:
                ended += 1
        if ended:
            self.message_user(request, f"{ended} jobs are cancelled.", messages.SUCCESS)

    @admin.display(description="state", ordering="state")
    def state_badge(self, job: Job) -> SafeString:
        return badge(job.get_state_display(), _LOOKS.get(job.state, "good"))

    @admin.display
    def progress(self, job: Job) -> SafeString:
        return format_html(
            '<progress max="{}" value="{}"></progress> {} of {}', job.total or 1, job.ended, job.ended, job.total
        )
