"""Which plugins are installed: those of this package, and those whose packages have an entry point for us.

Only what is found here can be named in a request. An id is looked up in this list; no module, path or package name ever
comes from a caller.
"""

import importlib
import importlib.metadata
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from plugins_app.builtin.json_repair import JsonRepair
from plugins_app.builtin.model_adapter import ModelAdapter
from plugins_app.builtin.pii_redactor import PiiRedactor
from plugins_app.builtin.prompt_guard import PromptGuard
from plugins_app.builtin.response_filter import ResponseFilter
from plugins_app.hands import HANDS
from plugins_app.hookspecs import API_VERSION, ENTRY_POINTS, Category, OnError, PluginInfo
from plugins_app.models import ID_PATTERN
from plugins_app.settings_schema import schema_problem

logger = logging.getLogger(__name__)

BUILT_IN = (ModelAdapter, PromptGuard, PiiRedactor, ResponseFilter, JsonRepair)
BUILT_IN_PACKAGE = "built-in"
_FRESH_SECONDS = 5.0
IMPORT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Installed:
    """A plugin that can be named. `package`: BUILT_IN_PACKAGE, or the package and its version.

    `error`: why it can't be used; then `info` says no more than its id.
    """

    info: PluginInfo
    package: str
    make: Callable[[], Any] | None
    error: str = ""


class Discovery:
    """Remembers what is installed, and looks again when asked after a while: a package may have come meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, Installed] = {}
        self._hanging: set[str] = set()  # whose import has not returned; no other thread is given to it
        self._looked_at = float("-inf")

    def all(self) -> dict[str, Installed]:
        """Every installed plugin by its id."""
        with self._lock:
            if time.monotonic() - self._looked_at > _FRESH_SECONDS:
                self._found = self._look()
                self._looked_at = time.monotonic()
            return self._found

    def find(self, plugin_id: str) -> Installed | None:
        return self.all().get(plugin_id)

    def forget(self) -> None:
        """Look again at the next call."""
        with self._lock:
            self._looked_at = float("-inf")

    def _look(self) -> dict[str, Installed]:
        found = {kind.info.id: Installed(kind.info, BUILT_IN_PACKAGE, kind) for kind in BUILT_IN}
        importlib.invalidate_caches()
        points = importlib.metadata.entry_points(group=ENTRY_POINTS)
        for point in sorted(points, key=lambda point: (point.name, point.value)):
            if point.name in found:
                if found[point.name].package == BUILT_IN_PACKAGE:
                    logger.warning("the package of another plugin names one %s, which is built in", point.name)
                continue
            if re.fullmatch(ID_PATTERN, point.name):
                known = self._found.get(point.name)
                is_final = known is not None and (not known.error or point.name in self._hanging)
                found[point.name] = known if known is not None and is_final else self._of(point)
        return dict(sorted(found.items()))

    def _of(self, point: importlib.metadata.EntryPoint) -> Installed:
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
        left, late = partial(self._hanging.add, point.name), partial(self._hanging.discard, point.name)
        try:
            kind = HANDS.call(point.load, seconds=IMPORT_SECONDS, left=left, late=late)
            info = _checked(kind, point.name)
        except (Exception, SystemExit) as error:  # whatever a foreign package does while it is imported
            logger.warning("the plugin %s can't be used", point.name, exc_info=True)
            return Installed(_unknown(point.name), package, None, f"{type(error).__name__}: {error}"[:300])
        return Installed(info, package, kind)


def _checked(kind: Any, plugin_id: str) -> PluginInfo:
    """The info of a plugin's class; raises ValueError for what no plugin may say of itself."""
    info = getattr(kind, "info", None)
    if not isinstance(info, PluginInfo) or not callable(kind):
        raise ValueError("the entry point must name a class with a PluginInfo as its `info`")
    if info.id != plugin_id:
        raise ValueError(f"its id {info.id!r} is not the name of its entry point")
    if info.api_version != API_VERSION:
        raise ValueError(f"it was written for version {info.api_version} of the plugin API; this is {API_VERSION}")
    if info.category not in get_args(Category):
        raise ValueError(f"the category {info.category!r} is not one of {', '.join(get_args(Category))}")
    if info.default_on_error not in get_args(OnError):
        raise ValueError(f"the default_on_error {info.default_on_error!r} is not open or closed")
    if problem := schema_problem(info.settings_schema):
        raise ValueError(f"its settings_schema is wrong: {problem}")
    return info


def _unknown(plugin_id: str) -> PluginInfo:
    return PluginInfo(id=plugin_id, name=plugin_id, version="", category="preprocessing")


_discovery = Discovery()


def installed() -> dict[str, Installed]:
    """Every installed plugin by its id; imports what it has not seen before."""
    return _discovery.all()


def forget_installed() -> None:
    """Look again at the next call."""
    _discovery.forget()
