"""A plugin that observes: it writes down how requests ended, and keeps their answers short."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from plugins_app.hookspecs import PluginInfo, hookimpl


class Witness:
    info = PluginInfo(
        id="witness",
        name="Witness",
        version="1",
        category="monitoring",
        settings_schema={
            "type": "object",
            "properties": {"file": {"type": "string"}, "max_tokens": {"type": "integer", "default": 100}},
            "required": ["file"],
        },
    )

    @hookimpl
    def setup(self, settings):
        self.file = Path(settings["file"])
        self.max_tokens = settings["max_tokens"]

    @hookimpl
    def request_in(self, request):
        return replace(request, max_tokens=min(self.max_tokens, request.max_tokens))

    @hookimpl
    def request_finished(self, request, outcome):
        with self.file.open("a") as file:
            file.write(json.dumps({"request": asdict(request), **asdict(outcome)}) + "\n")
