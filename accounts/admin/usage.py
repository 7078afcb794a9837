"""What keys and users used of the models, by day, on the admin site."""

from typing import Any

from django.contrib import admin
from django.db.models import F, OuterRef, QuerySet, Subquery
from django.http import HttpRequest

from accounts.admin.reading import ReadOnlyAdmin
from accounts.models import ApiKey, DailyUsage, User


@admin.register(DailyUsage)
class DailyUsageAdmin(ReadOnlyAdmin):
    list_display = (
        "day",
        "user",
        "key",
        "model",
        "requests",
        "failed",
        "tokens_in",
        "tokens_out",
        "tokens",
    )
    list_display_links = None
    list_filter = ("day", ("model", admin.AllValuesFieldListFilter))
    search_fields = ("user_name", "key_name", "model")
    search_help_text = "By user, key or model."
    date_hierarchy = "day"
    ordering = ("-day", "-requests")

    def get_queryset(self, request: HttpRequest) -> QuerySet[DailyUsage]:
        """With the names of users and keys, which the rows outlive."""
        users = User.objects.filter(pk=OuterRef("user_id")).values("username")[:1]
        keys = ApiKey.objects.filter(pk=OuterRef("key_id")).values("name")[:1]
        rows = super().get_queryset(request)
        named: QuerySet[DailyUsage] = rows.annotate(
            user_name=Subquery(users),
            key_name=Subquery(keys),
            all_tokens=F("prompt_tokens") + F("completion_tokens"),
        )
        return named

    @admin.display(ordering="user_name")
    def user(self, row: Any) -> str:
        return row.user_name or (f"deleted (no. {row.user_id})" if row.user_id else "without credentials")

    @admin.display(ordering="key_name")
    def key(self, row: Any) -> str:
        return row.key_name or (f"deleted (no. {row.key_id})" if row.key_id else "–")

    @admin.display(description="tokens in", ordering="prompt_tokens")
    def tokens_in(self, row: DailyUsage) -> str:
        return f"{row.prompt_tokens:,}"

    @admin.display(description="tokens out", ordering="completion_tokens")
    def tokens_out(self, row: DailyUsage) -> str:
        return f"{row.completion_tokens:,}"

    @admin.display(description="in all", ordering="all_tokens")
    def tokens(self, row: Any) -> str:
        return f"{row.all_tokens:,}"
