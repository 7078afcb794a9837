"""Redacts, replaces or blocks what matches rules in answers."""

from collections.abc import Mapping
from typing import Any

from plugins_app.hookspecs import Blocked, InvalidSettings, PluginInfo, TextFilter, hookimpl
from plugins_app.patterns import SECONDS, compile_pattern, word_list
from plugins_app.substitution import Replace, Sought, StreamPattern, Substitution

_RULE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 100, "description": "Shown to callers whose answer it blocks."},
        "words": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 200},
            "minItems": 1,
            "maxItems": 5000,
            "description": "Words or phrases.",
        },
        "pattern": {"type": "string", "minLength": 1, "description": "A regular expression, instead of words."},
        "action": {"enum": ["redact", "replace", "block"], "default": "redact"},
        "replacement": {"type": "string", "maxLength": 1000, "description": "What `replace` puts there."},
        "ignore_case": {"type": "boolean", "default": True},
        "whole_words": {"type": "boolean", "default": True, "description": "Not within longer words; for `words`."},
    },
    "oneOf": [{"required": ["words"]}, {"required": ["pattern"]}],
    "additionalProperties": False,
}


class ResponseFilter:
    """Its rules apply one after the other, each to what the one before has left."""

    info = PluginInfo(
        id="response_filter",
        name="Response Filter",
        version="1.0.0",
        category="postprocessing",
        author="LLaMA GPU Team",
        description="Redacts, replaces or blocks words and patterns in answers, also across the tokens of a stream",
        settings_schema={
            "type": "object",
            "properties": {
                "rules": {"type": "array", "items": _RULE, "maxItems": 100, "default": []},
                "redaction": {"type": "string", "maxLength": 100, "default": "[redacted]"},
            },
            "additionalProperties": False,
        },
        default_priority=50,
        default_on_error="closed",
        quick_filters=True,
    )

    @hookimpl
    def setup(self, settings: Mapping[str, Any]) -> None:
        self._rules = [
            _rule(rule, f"rules[{index}]", settings["redaction"]) for index, rule in enumerate(settings["rules"])
        ]

    @hookimpl
    def token_stream(self) -> list[TextFilter] | None:
        return [_Rule(*rule) for rule in self._rules] or None


class _Rule(Substitution):
    """A rule in one answer. An answer that can't be looked through in time is blocked: it is what is wrong, not the
    plugin, and what one caller brings about must not switch the plugin off for all."""

    def __init__(self, sought: Sought, replace: Replace, name: str) -> None:
        super().__init__(sought, replace)
        self._name = name

    def __call__(self, text: str, is_last: bool) -> tuple[str, str]:
        try:
            return super().__call__(text, is_last)
        except TimeoutError:
            raise Blocked("The answer could not be checked in time.", rule=self._name) from None


def _rule(rule: Mapping[str, Any], field: str, redaction: str) -> tuple[Sought, Replace, str]:
    sought: Sought
    if "words" in rule:
        sought = word_list(
            rule["words"], field=f"{field}.words", ignore_case=rule["ignore_case"], whole_words=rule["whole_words"]
        )
    else:
        source = rule["pattern"]
        pattern = compile_pattern(source, field=f"{field}.pattern", ignore_case=rule["ignore_case"], streamed=True)
        sought = StreamPattern(pattern, seconds=SECONDS)
    if rule["action"] == "replace" and "replacement" not in rule:
        raise InvalidSettings(f"{field}.replacement", "The action replace needs a replacement.")
    if rule["action"] != "replace" and "replacement" in rule:
        raise InvalidSettings(f"{field}.replacement", "Only the action replace takes a replacement.")
    name = rule.get("name") or field
    if rule["action"] == "block":
        return sought, _block(name), name
    return sought, _put(rule["replacement"] if rule["action"] == "replace" else redaction), name


def _put(replacement: str) -> Replace:
    return lambda match: (replacement, match.end())


def _block(name: str) -> Replace:
    def block(match: Any) -> tuple[str, int]:
        raise Blocked(rule=name)

    return block
