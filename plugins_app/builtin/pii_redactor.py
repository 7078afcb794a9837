"""Takes personal data out of prompts and answers."""

from collections.abc import Mapping
from typing import Any

from plugins_app.builtin.personal_data import KINDS, candidates, decide, glance, places
from plugins_app.hookspecs import PluginInfo, Prompt, TextFilter, hookimpl
from plugins_app.substitution import StreamPattern, Substitution


class PiiRedactor:
    """Both ways by default: the model does not see what the caller wrote, nor the caller what the model makes up."""

    info = PluginInfo(
        id="pii_redactor",
        name="PII Redactor",
        version="1.0.0",
        category="postprocessing",
        author="LLaMA GPU Team",
        description="Replaces e-mail addresses, phone numbers, payment cards and IBANs in prompts and answers",
        settings_schema={
            "type": "object",
            "properties": {
                "kinds": {
                    "type": "array",
                    "items": {"enum": list(KINDS)},
                    "minItems": 1,
                    "uniqueItems": True,
                    "default": list(KINDS),
                },
                "input": {"type": "boolean", "default": True, "description": "In prompts."},
                "output": {"type": "boolean", "default": True, "description": "In answers."},
                "replacement": {
                    "type": "string",
                    "maxLength": 100,
                    "default": "[{kind}]",
                    "description": "What stands there instead; {kind} is email, phone, card or iban.",
                },
            },
            "additionalProperties": False,
        },
        default_priority=30,
        default_on_error="closed",
        quick_filters=True,
    )

    @hookimpl
    def setup(self, settings: Mapping[str, Any]) -> None:
        self._kinds = frozenset(settings["kinds"])
        self._pattern = StreamPattern(candidates(self._kinds))
        self._input: bool = settings["input"]
        self._output: bool = settings["output"]
        self._replacements = {kind: settings["replacement"].replace("{kind}", kind) for kind in KINDS}

    @hookimpl
    def prompt(self, prompt: Prompt) -> Prompt | None:
        return prompt.map(self._redacted) if self._input else None

    @hookimpl
    def token_stream(self) -> TextFilter | None:
        return Substitution(self._pattern, self._replace, glance) if self._output else None

    def _redacted(self, text: str) -> str:
        """A whole text; the same as `Substitution` makes of it, sooner."""
        out: list[str] = []
        done = 0
        for start, end in places(text):
            at = start
            while (match := self._pattern.search(text, at, end)) is not None:
                replacement, at = self._replace(match)
                out += text[done : match.start()], replacement
                done = at
        return "".join([*out, text[done:]])

    def _replace(self, match: Any) -> tuple[str, int]:
        kind, end = decide(match, self._kinds)
        return (self._replacements[kind] if kind else match.string[match.start() : end]), end
