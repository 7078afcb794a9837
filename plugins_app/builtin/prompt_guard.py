"""Refuses prompts by length, pattern and language before they reach the model."""

from collections.abc import Mapping
from typing import Any

from plugins_app.builtin.languages import KNOWN, language_of
from plugins_app.hookspecs import PluginInfo, Prompt, Refused, hookimpl
from plugins_app.patterns import SECONDS, compile_pattern, word_list
from plugins_app.substitution import Sought, StreamPattern

_RULE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 100, "description": "Told to callers whose prompt it refuses."},
        "words": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 200},
            "minItems": 1,
            "maxItems": 5000,
        },
        "pattern": {"type": "string", "minLength": 1, "description": "A regular expression, instead of words."},
        "message": {"type": "string", "maxLength": 300, "default": "The prompt is not allowed here."},
        "ignore_case": {"type": "boolean", "default": True},
    },
    "oneOf": [{"required": ["words"]}, {"required": ["pattern"]}],
    "additionalProperties": False,
}


class PromptGuard:
    """Looks at everything the caller wrote: the text, every turn, the system prompt."""

    info = PluginInfo(
        id="prompt_guard",
        name="Prompt Guard",
        version="1.0.0",
        category="preprocessing",
        author="LLaMA GPU Team",
        description="Refuses prompts that are too long, match a pattern, or are in another language than allowed",
        settings_schema={
            "type": "object",
            "properties": {
                "max_characters": {"type": "integer", "minimum": 0, "default": 0, "description": "0: no limit."},
                "max_turns": {"type": "integer", "minimum": 0, "default": 0, "description": "0: no limit."},
                "rules": {"type": "array", "items": _RULE, "maxItems": 100, "default": []},
                "languages": {
                    "type": "array",
                    "items": {"enum": sorted(KNOWN)},
                    "uniqueItems": True,
                    "default": [],
                    "description": "ISO 639-1 codes of the languages allowed; none named: all.",
                },
                "unknown_language": {
                    "enum": ["allow", "refuse"],
                    "default": "allow",
                    "description": "What becomes of texts too short or too mixed to tell.",
                },
            },
            "additionalProperties": False,
        },
        default_priority=20,
        default_on_error="closed",
    )

    @hookimpl
    def setup(self, settings: Mapping[str, Any]) -> None:
        self._max_characters: int = settings["max_characters"]
        self._max_turns: int = settings["max_turns"]
        self._languages = frozenset(settings["languages"])
        self._refuse_unknown = settings["unknown_language"] == "refuse"
        self._rules = [_rule(rule, f"rules[{index}]") for index, rule in enumerate(settings["rules"])]

    @hookimpl
    def prompt(self, prompt: Prompt) -> None:
        parts = prompt.parts()
        self._check_length(prompt, parts)
        for field, text in parts:
            for sought, name, message in self._rules:
                if _is_in(text, sought, field=field, rule=name):
                    raise Refused(message, field=field, rule=name)
        if self._languages:
            self._check_language(parts)

    def _check_length(self, prompt: Prompt, parts: list[tuple[str, str]]) -> None:
        length = sum(len(text) for _, text in parts)
        if self._max_characters and length > self._max_characters:
            raise Refused(
                "The prompt is too long.",
                field="text" if prompt.messages is None else "messages",
                rule="max_characters",
                max_length=self._max_characters,
                provided_length=length,
            )
        turns = len(prompt.messages or ())
        if self._max_turns and turns > self._max_turns:
            raise Refused(
                "The conversation has too many turns.",
                field="messages",
                rule="max_turns",
                max_turns=self._max_turns,
                provided_turns=turns,
            )

    def _check_language(self, parts: list[tuple[str, str]]) -> None:
        """Each part by itself: one long allowed text must not hide another."""
        for field, text in parts:
            language = language_of(text)
            if language is None and not self._refuse_unknown:
                continue
            if language not in self._languages:
                raise Refused("This language is not allowed here.", field=field, rule="languages", found=language)


def _is_in(text: str, sought: Sought, *, field: str, rule: str) -> bool:
    """A text that can't be looked through in time is refused: it is what is wrong, not the plugin, and what one caller
    writes must not switch the plugin off for all."""
    try:
        return sought.search(text) is not None
    except TimeoutError:
        raise Refused("The prompt could not be checked in time.", field=field, rule=rule) from None


def _rule(rule: Mapping[str, Any], field: str) -> tuple[Sought, str, str]:
    sought: Sought
    if "words" in rule:
        sought = word_list(rule["words"], field=f"{field}.words", ignore_case=rule["ignore_case"])
    else:
        pattern = compile_pattern(rule["pattern"], field=f"{field}.pattern", ignore_case=rule["ignore_case"])
        sought = StreamPattern(pattern, seconds=SECONDS)
    return sought, rule.get("name") or field, rule["message"]
