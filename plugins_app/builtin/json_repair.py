"""Makes valid JSON of answers that nearly are."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from plugins_app.builtin.json_text import may_be_json, repaired
from plugins_app.hookspecs import PluginInfo, Request, TextFilter, hookimpl


class JsonRepair:
    """An answer that begins as JSON does is held back to its end; any other is let go at its first characters."""

    info = PluginInfo(
        id="json_repair",
        name="JSON Repair",
        version="1.0.0",
        category="postprocessing",
        author="LLaMA GPU Team",
        description="Mends answers that are nearly JSON: code fences, quotes, commas, comments, missing ends",
        settings_schema={
            "type": "object",
            "properties": {
                "models": {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": 100},
                    "maxItems": 200,
                    "default": ["*"],
                    "description": "Model ids whose answers are mended; * and ? as in a shell.",
                }
            },
            "additionalProperties": False,
        },
        default_priority=70,
        quick_filters=True,
    )

    @hookimpl
    def setup(self, settings: Mapping[str, Any]) -> None:
        self._models: list[str] = settings["models"]

    @hookimpl
    def token_stream(self, request: Request) -> TextFilter | None:
        return _Mending() if any(fnmatchcase(request.model, name) for name in self._models) else None


class _Mending:
    """The filter of one answer."""

    def __init__(self) -> None:
        self._is_json: bool | None = None

    def __call__(self, text: str, is_last: bool) -> tuple[str, str]:
        if self._is_json is None:
            self._is_json = may_be_json(text)
        if self._is_json is False:
            return text, ""
        return (repaired(text), "") if is_last else ("", text)
