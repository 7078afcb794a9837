"""Keeps what workers tell about failing plugins, and tells it on."""

from collections.abc import Iterable

from django.utils import timezone

from common.events import PluginError, publish
from plugins_app.chain import Failure
from plugins_app.models import Plugin
from plugins_app.notices import announce_change

_MAX_ERROR = 500


def record(failures: Iterable[Failure]) -> None:
    """One row and one event for each plugin, however often it failed meanwhile."""
    latest: dict[str, Failure] = {}
    circuits: dict[str, str] = {}
    for failure in failures:
        if failure.error:
            latest[failure.plugin_id] = failure
        if failure.circuit:
            circuits[failure.plugin_id] = failure.circuit
    now = timezone.now()
    for plugin_id in {**latest, **circuits}:
        changes: dict[str, object] = {}
        if plugin_id in latest:
            changes |= {"last_error": latest[plugin_id].error[:_MAX_ERROR], "last_error_at": now}
        if plugin_id in circuits:
            is_open = circuits[plugin_id] == "open"
            changes |= {
                "circuit": Plugin.Circuit.OPEN if is_open else Plugin.Circuit.CLOSED,
                "circuit_opened_at": now if is_open else None,
            }
        Plugin.objects.filter(pk=plugin_id).update(**changes)
        if plugin_id in latest:
            publish(PluginError(plugin_id=plugin_id, error=latest[plugin_id].error))
    if circuits:
        announce_change()
