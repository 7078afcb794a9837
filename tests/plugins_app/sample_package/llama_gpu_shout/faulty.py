"""Plugins that fail, each in its own way."""

import sys
import threading
import time

from plugins_app.hookspecs import PluginInfo, hookimpl


class BrokenSetup:
    info = PluginInfo(id="broken_setup", name="Broken", version="1", category="monitoring")

    @hookimpl
    def setup(self, settings):
        raise RuntimeError("no licence")


class Picky:
    """Can be set up everywhere but in a worker, if its settings say so."""

    info = PluginInfo(
        id="picky",
        name="Picky",
        version="1",
        category="monitoring",
        settings_schema={"type": "object", "properties": {"fails": {"type": "boolean", "default": True}}},
    )

    @hookimpl
    def setup(self, settings):
        if settings["fails"] and "worker" in sys.argv:
            raise RuntimeError("not with this device")


class Fragile:
    """Fails, or never returns, when the prompt or the answer says so."""

    info = PluginInfo(
        id="fragile",
        name="Fragile",
        version="1",
        category="preprocessing",
        settings_schema={
            "type": "object",
            "properties": {"seconds": {"type": "number", "default": 0}},
            "additionalProperties": False,
        },
    )

    @hookimpl
    def setup(self, settings):
        self.seconds = settings["seconds"]

    @hookimpl
    def prompt(self, prompt):
        time.sleep(self.seconds)
        if "hang-in" in (prompt.text or ""):
            threading.Event().wait()
        if "crash-in" in (prompt.text or ""):
            raise ValueError(prompt.text)

    @hookimpl
    def token_stream(self):
        def check(text, is_last):
            if "hang-out" in text:
                threading.Event().wait()
            if "crash-out" in text:
                raise ValueError(text)
            return text, ""

        return check


class Old:
    info = PluginInfo(id="old", name="Old", version="1", category="monitoring", api_version="0")
