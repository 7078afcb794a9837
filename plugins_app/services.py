"""Loading, unloading and configuring plugins."""

import hashlib
import json
import time
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from accounts import audit
from accounts.audit import SERVER, Action, Actor
from common.errors import InvalidInput, PluginLoadFailed
from common.events import PluginError, PluginLoaded, PluginUnloaded, publish
from plugins_app.followers import wait_for_workers
from plugins_app.hookspecs import InvalidSettings
from plugins_app.loaded import LoadError, checked_settings, load
from plugins_app.models import Plugin
from plugins_app.notices import announce_change
from plugins_app.selectors import KnownPlugin, find_plugin, new_row

SETTINGS_FIELD = "config.settings"

_MAX_ERROR = 500
_ANY: Mapping[str, Any] = {}
_CLEAN_SLATE: dict[str, Any] = {
    "circuit": Plugin.Circuit.CLOSED,
    "circuit_opened_at": None,
    "last_error": "",
    "last_error_at": None,
}


def load_plugin(*, plugin_id: str, config: Mapping[str, Any] | None = None, actor: Actor = SERVER) -> KnownPlugin:
    """Load a plugin, with another configuration if one is given; every worker follows within a second.

    It is set up here first, and torn down again; then the workers are waited for (`followers.WAIT_SECONDS`, and not
    within a transaction, since they would not see the change). Where one of them all can't load it, everything is put
    back as it was. Loaded already and given no configuration, it stays as it is.
    Raises PluginNotFound, InvalidInput or PluginLoadFailed.
    """
    known = find_plugin(plugin_id)
    if known.row.loaded and config is None and not known.row.last_error and not known.installed.error:
        return known
    row = _configured(known, config or {})
    load_time = _tried(known, row)
    state = {"loaded": True, "loaded_at": timezone.now(), "load_time": load_time} | _CLEAN_SLATE
    change = _save_and_see(known, row, config or {}, state, "plugin.loaded", actor)
    if not change.before.loaded:
        transaction.on_commit(partial(publish, PluginLoaded(plugin_id=plugin_id, load_time=load_time)))
    return KnownPlugin(known.installed, change.after)


def unload_plugin(*, plugin_id: str, actor: Actor = SERVER) -> None:
    """Take a plugin out of use; its configuration is kept, and requests that run with it end with it.

    Raises PluginNotFound.
    """
    known = find_plugin(plugin_id)
    if not known.row.loaded:
        return
    _save(known, {"loaded": False, "loaded_at": None} | _CLEAN_SLATE, "plugin.unloaded", actor)
    transaction.on_commit(partial(publish, PluginUnloaded(plugin_id=plugin_id)))


def configure_plugin(*, plugin_id: str, config: Mapping[str, Any], actor: Actor = SERVER) -> KnownPlugin:
    """Change a plugin's configuration, loaded or not; what is left out stays, `settings` is replaced whole.

    That of a loaded one holds once the workers run with it, as in `load_plugin`. Other settings close its circuit.
    Raises PluginNotFound, InvalidInput or PluginLoadFailed.
    """
    known = find_plugin(plugin_id)
    row = _configured(known, config)
    _tried(known, row)
    state = _CLEAN_SLATE if "settings" in config else {}
    change = _save_and_see(known, row, config, state, "plugin.updated", actor)
    return KnownPlugin(known.installed, change.after)


def _configured(known: KnownPlugin, config: Mapping[str, Any]) -> Plugin:
    """The row as a configuration makes it, checked and with the settings' defaults; not saved."""
    row = copy(known.row)
    for name, value in config.items():
        setattr(row, name, value)
    try:
        row.clean_fields()
    except ValidationError as error:
        name, messages = next(iter(error.message_dict.items()))
        raise InvalidInput(messages[0], field=f"config.{name}") from None
    if not known.installed.error:
        try:
            row.settings = checked_settings(known.installed.info, row.settings)
        except InvalidSettings as error:
            raise _invalid(error) from None
    return row


def _tried(known: KnownPlugin, row: Plugin) -> float:
    """Set the plugin up and tear it down again; returns how long the first took. Raises InvalidInput for settings that
    it refuses, PluginLoadFailed for whatever else keeps it from being loaded."""
    began = time.perf_counter()
    try:
        plugin = load(known.installed, row.settings)
    except InvalidSettings as error:
        raise _invalid(error) from None
    except LoadError as error:
        _note_error(known, str(error))
        publish(PluginError(plugin_id=row.id, error=error.public))
        raise PluginLoadFailed(details={"plugin": row.id, "error": str(error)}) from None
    took = time.perf_counter() - began
    plugin.tear_down()
    return round(took, 6)


def _told(row: Plugin) -> dict[str, Any]:
    """What the audit may tell of a row: of the settings, which may hold secrets, only a fingerprint."""
    encoded = json.dumps(row.settings, sort_keys=True).encode()
    fingerprint = f"sha256:{hashlib.sha256(encoded).hexdigest()[:16]}"
    return {**row.config, "settings": fingerprint, "loaded": row.loaded}


@dataclass(frozen=True, slots=True)
class _Change:
    """What became of a row. `versions`: the one that the workers have to come to; none within a transaction, or
    without Redis."""

    before: Plugin
    after: Plugin
    versions: list[int]


def _save_and_see(
    known: KnownPlugin, row: Plugin, config: Mapping[str, Any], state: Mapping[str, Any], action: Action, actor: Actor
) -> _Change:
    """Save a configuration and a state, and undo it if a worker can't load what is to be loaded.

    Raises PluginLoadFailed.
    """
    # The settings always, since the plugin was tried with what its defaults are today; but not over newer ones.
    changes = {name: getattr(row, name) for name in {**config, "settings": None}} | dict(state)
    only_from = {} if "settings" in config else {"settings": known.row.settings}
    change = _save(known, changes, action, actor, only_from=only_from)
    if not change.after.loaded or not change.versions:
        return change
    trouble = wait_for_workers(row.id, change.versions[0])
    if trouble is None:
        return change
    former = {name: getattr(change.before, name) for name in changes}
    _save(known, former, "plugin.unloaded", actor, only_from={name: getattr(change.after, name) for name in changes})
    _note_error(known, trouble.error)
    raise PluginLoadFailed(details={"plugin": row.id, "error": trouble.error, "worker": trouble.worker})


def _save(
    known: KnownPlugin, changes: Mapping[str, Any], action: Action, actor: Actor, *, only_from: Mapping[str, Any] = _ANY
) -> _Change:
    """Write these fields and no others: setting a plugin up takes time, in which somebody may change the rest.

    `only_from`: the values that fields must still have to be written. `action`: for the audit, if `loaded` changes.
    """
    versions: list[int] = []

    def announce() -> None:
        version = announce_change()
        versions.extend([] if version is None else [version])

    with transaction.atomic():
        row = _locked(known)
        before = copy(row)
        fields = [name for name in changes if name not in only_from or getattr(row, name) == only_from[name]]
        for name in fields:
            setattr(row, name, changes[name])
        row.save(update_fields=fields)
        told, told_before = _told(row), _told(before)
        differing = {name: (told_before[name], value) for name, value in told.items() if value != told_before[name]}
        if differing:
            told_action: Action = action if row.loaded != before.loaded else "plugin.updated"
            audit.record(told_action, actor=actor, target_type="plugin", target_id=row.id, changes=differing)
        transaction.on_commit(announce)
    return _Change(before, row, versions)


def _locked(known: KnownPlugin) -> Plugin:
    """The plugin's row, made if there is none, which nobody else writes before this transaction ends."""
    Plugin.objects.bulk_create([new_row(known.installed)], ignore_conflicts=True)
    return Plugin.objects.select_for_update().get(pk=known.installed.info.id)


def _note_error(known: KnownPlugin, error: str) -> None:
    with transaction.atomic():
        row = _locked(known)
        row.last_error, row.last_error_at = error[:_MAX_ERROR], timezone.now()
        row.save(update_fields=["last_error", "last_error_at"])


def _invalid(error: InvalidSettings) -> InvalidInput:
    field = f"{SETTINGS_FIELD}.{error.field}" if error.field else SETTINGS_FIELD
    return InvalidInput(error.message, field=field)
