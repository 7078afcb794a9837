"""One plugin, set up with one configuration."""

import inspect
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pluggy

from plugins_app.discovery import BUILT_IN_PACKAGE, Installed
from plugins_app.hands import HANDS, Overdue
from plugins_app.hookspecs import PROJECT, Hooks, InvalidSettings, PluginInfo
from plugins_app.settings_schema import problems, with_defaults

logger = logging.getLogger(__name__)

SET_UP_SECONDS = 30.0
_TEAR_DOWN_SECONDS = 10.0

HOOKS = frozenset(name for name in vars(Hooks) if not name.startswith("_"))


class LoadError(Exception):
    """A plugin could not be loaded. The message is for administrators, `public` for everybody."""

    def __init__(self, message: str, *, public: str = "") -> None:
        super().__init__(message)
        self.public = public or message


class LoadedPlugin:
    """`call` is the plugin's own hooks, by name; `hooks` says which of them it has. `load_time` in seconds.

    `is_trusted`: it is built in, and known to return from every call.
    """

    def __init__(self, plugin: Installed, manager: pluggy.PluginManager, load_time: float) -> None:
        self.info = plugin.info
        self.is_trusted = plugin.package == BUILT_IN_PACKAGE
        self.call: Any = manager.hook
        self.hooks = frozenset(name for name in HOOKS if getattr(manager.hook, name).get_hookimpls())
        self.load_time = load_time

    def tear_down(self) -> None:
        """The plugin's last call. Never raises."""
        try:
            HANDS.call(self.call.teardown, seconds=_TEAR_DOWN_SECONDS)
        except (Exception, SystemExit):
            logger.exception("the plugin %s failed to be torn down", self.info.id)


def checked_settings(info: PluginInfo, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with defaults filled in. Raises InvalidSettings for the first thing that is wrong."""
    whole: dict[str, Any] = with_defaults(info.settings_schema, settings)
    for field, message in problems(info.settings_schema, whole):
        raise InvalidSettings(field, message)
    return whole


def load(plugin: Installed, settings: Mapping[str, Any]) -> LoadedPlugin:
    """Set a plugin up. Raises InvalidSettings or LoadError."""
    if plugin.make is None:
        raise LoadError(plugin.error, public="its package can't be imported")
    whole = checked_settings(plugin.info, settings)
    if plugin.info.id in _hanging:
        raise LoadError("it hangs since it was to be set up before")
    began = time.perf_counter()
    try:
        manager = HANDS.call(
            partial(_set_up, plugin.make, plugin.info.id, whole),
            seconds=SET_UP_SECONDS,
            left=partial(_hanging.add, plugin.info.id),
            late=partial(_hanging.discard, plugin.info.id),
        )
    except (InvalidSettings, LoadError):
        raise
    except Overdue as error:
        raise LoadError(str(error)) from None
    except (Exception, SystemExit) as error:
        logger.warning("the plugin %s failed to load", plugin.info.id, exc_info=True)
        kind = type(error).__name__
        raise LoadError(f"{kind}: {error}"[:300], public=f"{kind} while it was set up") from error
    return LoadedPlugin(plugin, manager, time.perf_counter() - began)


# Plugins that have not come back from their set-up; no other thread is given to them.
_hanging: set[str] = set()


def _set_up(make: Callable[[], Any], plugin_id: str, settings: Mapping[str, Any]) -> pluggy.PluginManager:
    manager = _registered(make(), plugin_id)
    manager.hook.setup(settings=settings)
    return manager


def _registered(instance: object, plugin_id: str) -> pluggy.PluginManager:
    """A manager with this one plugin, whose hooks are those of the specification."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    manager.register(instance, name=plugin_id)
    manager.check_pending()
    for name in HOOKS:
        for found in getattr(manager.hook, name).get_hookimpls():
            if inspect.iscoroutinefunction(found.function):
                raise LoadError(f"its hook {name} is a coroutine; hooks are plain functions")
    return manager
