"""The audit on the admin site."""

from typing import Any

from django.contrib import admin
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timezone import localtime

from accounts.admin.reading import ReadOnlyAdmin
from accounts.models import AuditEntry


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    list_display = ("time", "actor", "action", "target", "what", "address")
    list_filter = ("at", ("action", admin.AllValuesFieldListFilter), ("actor", admin.AllValuesFieldListFilter))
    search_fields = ("actor", "action", "target_id", "target_name", "address", "request_id")
    search_help_text = "By actor, action, target, address or request id."
    date_hierarchy = "at"
    fields = ("time", "actor", "action", "target", "changed", "address", "credential", "request_id")

    @admin.display(description="time", ordering="at")
    def time(self, entry: AuditEntry) -> str:
        return localtime(entry.at).strftime("%Y-%m-%d %H:%M:%S")

    @admin.display(description="target", ordering="target_name")
    def target(self, entry: AuditEntry) -> str:
        return f"{entry.target_type} {entry.target_name or entry.target_id}"

    @admin.display(description="changes")
    def what(self, entry: AuditEntry) -> str:
        after = ((field, change["after"]) for field, change in entry.changes.items())
        return ", ".join(f"{field} {_text(value)}" for field, value in after if value not in (None, "")) or "–"

    @admin.display(description="changes")
    def changed(self, entry: AuditEntry) -> SafeString | str:
        if not entry.changes:
            return "–"
        rows = ((field, _text(change["before"]), _text(change["after"])) for field, change in entry.changes.items())
        body = format_html_join("", "<tr><th>{}</th><td>{}</td><td>{}</td></tr>", rows)
        return format_html("<table><tr><th></th><th>before</th><th>after</th></tr>{}</table>", body)


def _text(value: Any) -> str:
    if value is None or value == "":
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
