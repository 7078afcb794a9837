"""What is known about plugins; nothing here writes."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from django.utils import timezone

from common.errors import PluginNotFound
from common.redis import key
from plugins_app.discovery import Installed, installed
from plugins_app.models import Plugin


@dataclass(frozen=True, slots=True)
class KnownPlugin:
    """An installed plugin with what is decided about it; `row` is unsaved while nothing is."""

    installed: Installed
    row: Plugin

    @property
    def status(self) -> Literal["available", "loaded", "failed"]:
        if self.installed.error:
            return "failed"
        return "loaded" if self.row.loaded else "available"

    def circuit(self, now: datetime | None = None) -> dict[str, Any]:
        row = self.row
        return {
            "state": row.circuit_state(now or timezone.now()),
            "opened_at": row.circuit_opened_at,
            "last_error": self.installed.error or row.last_error,
            "last_error_at": row.last_error_at,
        }


def version_key() -> str:
    """Counts the changes of all plugins, so that workers know when to read them again."""
    return key("plugins", "version")


def in_use() -> list[Plugin]:
    """The rows of loaded plugins, in the order in which they run."""
    return list(Plugin.objects.filter(loaded=True).order_by("priority", "id"))


def all_plugins() -> list[KnownPlugin]:
    """Every installed plugin, by id."""
    rows = {row.id: row for row in Plugin.objects.all()}
    return [KnownPlugin(found, rows.get(plugin_id) or new_row(found)) for plugin_id, found in installed().items()]


def find_plugin(plugin_id: str) -> KnownPlugin:
    """Raises PluginNotFound for one that is not installed, whatever the database says."""
    found = installed().get(plugin_id)
    if found is None:
        raise PluginNotFound(details={"plugin": plugin_id[:100]})
    return KnownPlugin(found, Plugin.objects.filter(pk=plugin_id).first() or new_row(found))


def new_row(found: Installed) -> Plugin:
    """What holds for a plugin that nobody has configured yet; not saved."""
    info = found.info
    return Plugin(id=info.id, priority=info.default_priority, on_error=info.default_on_error)
