"""Makes prompts fit the model: clean text, a system prompt, and the format that a model was trained with."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from plugins_app.builtin.prompt_formats import FORMATS, render
from plugins_app.hookspecs import PluginInfo, Prompt, Refused, Request, hookimpl

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_LINE_END = re.compile(r"\r\n?|[\u0085\u2028\u2029]")
_TRAILING = re.compile(r"(?<![ \t\u00a0])[ \t\u00a0]+(?=\n)")  # one try for each run of spaces, however long
_BLANK_LINES = re.compile(r"\n{3,}")

_MODEL = {
    "type": "object",
    "properties": {
        "match": {
            "type": "string",
            "minLength": 1,
            "maxLength": 100,
            "description": "Model ids; * and ? as in a shell.",
        },
        "template": {
            "enum": ["model", *sorted(FORMATS)],
            "default": "model",
            "description": "`model`: its own chat template.",
        },
        "system_prompt": {"type": "string", "maxLength": 20_000, "description": "Instead of the general one."},
    },
    "required": ["match"],
    "additionalProperties": False,
}


class ModelAdapter:
    """A request that is `raw` is cleaned, and neither given a system prompt nor formatted."""

    info = PluginInfo(
        id="model_adapter_v1",
        name="Model Adapter",
        version="1.0.0",
        category="preprocessing",
        author="LLaMA GPU Team",
        description="Adapts model inputs for optimal performance",
        settings_schema={
            "type": "object",
            "properties": {
                "normalize_whitespace": {
                    "type": "boolean",
                    "default": True,
                    "description": "Line ends become \\n; space at the ends of lines and of the text, and blank lines "
                    "beyond the first, go. Indentation stays.",
                },
                "unicode": {"enum": ["NFC", "NFKC", "none"], "default": "NFC"},
                "strip_control": {
                    "type": "boolean",
                    "default": True,
                    "description": "Control, zero-width and direction characters go; joiners within emoji stay.",
                },
                "system_prompt": {
                    "type": "string",
                    "maxLength": 20_000,
                    "default": "",
                    "description": "For requests that bring none.",
                },
                "models": {"type": "array", "items": _MODEL, "maxItems": 200, "default": []},
            },
            "additionalProperties": False,
        },
        default_priority=10,
    )

    @hookimpl
    def setup(self, settings: Mapping[str, Any]) -> None:
        self._whitespace: bool = settings["normalize_whitespace"]
        self._form: Any = settings["unicode"]
        self._strip_control: bool = settings["strip_control"]
        self._system_prompt: str = settings["system_prompt"]
        self._models: list[Mapping[str, Any]] = settings["models"]

    @hookimpl
    def prompt(self, request: Request, prompt: Prompt) -> Prompt:
        prompt = prompt.map(self._cleaned)
        if not any(text for field, text in prompt.parts() if field not in ("system", "tools")):
            raise Refused("The prompt has no text in it.", field="text" if prompt.messages is None else "messages")
        if prompt.raw:
            return prompt
        rule = next((rule for rule in self._models if fnmatchcase(request.model, rule["match"])), {})
        system = rule.get("system_prompt", self._system_prompt)
        has_system = prompt.system or any(turn.role == "system" for turn in prompt.messages or ())
        if system and not has_system:
            prompt = replace(prompt, system=system)
        template = rule.get("template", "model")
        if template == "model":
            return prompt
        if prompt.tools or any(turn.role == "tool" or turn.tool_calls for turn in prompt.messages or ()):
            raise Refused(f"The format {template} has no tools.", field="tools" if prompt.tools else "messages")
        return Prompt(text=render(template, prompt), raw=True)

    def _cleaned(self, text: str) -> str:
        if self._form != "none":
            text = unicodedata.normalize(self._form, text)
        if self._whitespace:
            text = _LINE_END.sub("\n", text)
        if self._strip_control:
            text = _CONTROL.sub("", text)
        if self._whitespace and "\n" in text:
            text = _BLANK_LINES.sub("\n\n", _TRAILING.sub("", text))
        if self._whitespace:
            text = text.strip()
        return text
