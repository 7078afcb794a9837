"""Loading, unloading and configuring plugins."""

import hashlib
import json
import time
from collections.abc import Mapping
from copy import copy
from functools import partial
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from accounts import audit
from accounts.audit import SERVER, Actor
from common.errors import InvalidInput, PluginLoadFailed
from common.events import PluginError, PluginLoaded, PluginUnloaded, publish
from plugins_app.followers import wait_for_workers
from plugins_app.hookspecs import InvalidSettings
from plugins_app.loaded import LoadError, checked_settings, load
from plugins_app.models import Plugin
from plugins_app.notices import announce_change
from plugins_app.selectors import KnownPlugin, find_plugin

SETTINGS_FIELD = "config.settings"


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
    former = copy(known.row)
    row = _configured(known, config or {})
    row.load_time = _tried(known, row)
    row.loaded, row.loaded_at = True, timezone.now()
    _save_and_see(row, former, "plugin.updated" if former.loaded else "plugin.loaded", actor)
    if not former.loaded:
        transaction.on_commit(partial(publish, PluginLoaded(plugin_id=plugin_id, load_time=row.load_time)))
    return KnownPlugin(known.installed, row)


def unload_plugin(*, plugin_id: str, actor: Actor = SERVER) -> None:
    """Take a plugin out of use; its configuration is kept, and requests that run with it end with it.

    Raises PluginNotFound.
    """
    known = find_plugin(plugin_id)
    if not known.row.loaded:
        return
    former = copy(known.row)
    known.row.loaded = False
    known.row.loaded_at = None
    _save(known.row, former, "plugin.unloaded", actor)
    transaction.on_commit(partial(publish, PluginUnloaded(plugin_id=plugin_id)))


def configure_plugin(*, plugin_id: str, config: Mapping[str, Any], actor: Actor = SERVER) -> KnownPlugin:
    """Change a plugin's configuration, loaded or not; what is left out stays, `settings` is replaced whole.

    That of a loaded one holds once the workers run with it, as in `load_plugin`.
    Raises PluginNotFound, InvalidInput or PluginLoadFailed.
    """
    known = find_plugin(plugin_id)
    former = copy(known.row)
    row = _configured(known, config)
    _tried(known, row)
    _save_and_see(row, former, "plugin.updated", actor)
    return KnownPlugin(known.installed, row)


def _configured(known: KnownPlugin, config: Mapping[str, Any]) -> Plugin:
    """The row with a configuration taken over and checked; not saved."""
    row = known.row
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
        sentence = str(error)
        Plugin.objects.filter(pk=row.id).update(last_error=sentence, last_error_at=timezone.now())
        publish(PluginError(plugin_id=row.id, error=error.public))
        raise PluginLoadFailed(details={"plugin": row.id, "error": sentence}) from None
    took = time.perf_counter() - began
    plugin.tear_down()
    return round(took, 6)


def _told(row: Plugin) -> dict[str, Any]:
    """What the audit may tell of a row: of the settings, which may hold secrets, only a fingerprint."""
    encoded = json.dumps(row.settings, sort_keys=True).encode()
    fingerprint = f"sha256:{hashlib.sha256(encoded).hexdigest()[:16]}"
    return {**row.config, "settings": fingerprint, "loaded": row.loaded}


def _save_and_see(row: Plugin, former: Plugin, action: str, actor: Actor) -> None:
    """Save a change, and undo it if a worker can't load what is to be loaded. Raises PluginLoadFailed."""
    versions = _save(row, former, action, actor)
    if not row.loaded or not versions:
        return
    trouble = wait_for_workers(row.id, versions[0])
    if trouble is None:
        return
    _save(former, row, "plugin.updated" if former.loaded else "plugin.unloaded", actor)
    Plugin.objects.filter(pk=row.id).update(last_error=trouble.error, last_error_at=timezone.now())
    raise PluginLoadFailed(details={"plugin": row.id, "error": trouble.error, "worker": trouble.worker})


def _save(row: Plugin, former: Plugin, action: str, actor: Actor) -> list[int]:
    """Save a changed plugin, with a clean slate.

    Returns the version that the workers have to come to; none within a transaction, or without Redis.
    """
    told, before = _told(row), _told(former)
    changes = {name: (before[name], value) for name, value in told.items() if value != before[name]}
    row.circuit, row.circuit_opened_at = Plugin.Circuit.CLOSED, None
    row.last_error, row.last_error_at = "", None
    versions: list[int] = []

    def announce() -> None:
        version = announce_change()
        versions.extend([] if version is None else [version])

    with transaction.atomic():
        row.save()
        if changes:
            audit.record(action, actor=actor, target_type="plugin", target_id=row.id, changes=changes)
        transaction.on_commit(announce)
    return versions


def _invalid(error: InvalidSettings) -> InvalidInput:
    field = f"{SETTINGS_FIELD}.{error.field}" if error.field else SETTINGS_FIELD
    return InvalidInput(error.message, field=field)
