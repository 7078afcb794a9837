"""Regular expressions that administrators write: checked when they are set, limited in time whenever they run.

The `regex` package instead of `re`: it can be stopped, which `re` can't, and it knows partial matches, without which a
match that is still being written could not be seen coming.
"""

import re
from typing import Any

import regex

from plugins_app.hookspecs import InvalidSettings
from plugins_app.words import WordList, is_visible

MAX_LENGTH = 1000
SECONDS = 0.05
_PROBE_SECONDS = 0.1
_PROBE_LENGTH = 400
_MAX_PROBES = 12

_ESCAPE = re.compile(r"\\(?:[pPNxuUgkL](?:\{[^}]*\}|<[^>]*>)|.)", re.DOTALL)
_CLASS = re.compile(r"\[\^?\]?[^\]]*\]")
_FUZZY = re.compile(r"\{(?![0-9]*,?[0-9]*\})")
_REVERSE = re.compile(r"\(\?[a-zA-Z]*r")
_RECURSION = re.compile(r"\(\?(?:R|&|[0-9])")
# What looks at the end of the text: in a text that is still being written, the end moves.
_END_ESCAPES = frozenset({r"\B", r"\Z", r"\z", r"\G", r"\K"})


def compile_pattern(source: str, *, field: str, ignore_case: bool = False, streamed: bool = False) -> Any:
    """The compiled pattern. Raises InvalidSettings for one that is wrong, matches nothing at all, or takes too long.

    `streamed`: it will be sought in a text that is still being written.
    """
    if len(source) > MAX_LENGTH:
        raise InvalidSettings(field, f"A pattern has at most {MAX_LENGTH} characters.")
    try:
        pattern = regex.compile(source, regex.IGNORECASE if ignore_case else 0)
    except (regex.error, KeyError, ValueError, RecursionError, OverflowError) as error:
        raise InvalidSettings(field, f"This is not a regular expression: {error}.") from None
    if problem := _problem(source, streamed=streamed):
        raise InvalidSettings(field, problem)
    _probe(pattern, source, field)
    return pattern


def _problem(source: str, *, streamed: bool) -> str:
    escapes = set(_ESCAPE.findall(source))
    plain = _CLASS.sub("", _ESCAPE.sub("", source))
    if _FUZZY.search(plain) or _REVERSE.search(plain) or _RECURSION.search(plain):
        return "Approximate, reversed and recursive patterns are not supported."
    if streamed and ("$" in plain or escapes & _END_ESCAPES):
        return r"$, \Z, \B, \G and \K are not supported here: an answer is filtered while it is written."
    return ""


def _probe(pattern: Any, source: str, field: str) -> None:
    """Try it on texts that patterns with nested repetition choke on. What passes can still be slow on some text; then
    the time limit ends it."""
    characters = "".join(dict.fromkeys(source))
    letters = [character for character in characters if character.isalnum()][:_MAX_PROBES]
    # Behind it what the pattern may end with, out of its reach: without it a search would not even begin.
    probes = ["", *(piece * _PROBE_LENGTH + "\0" + characters for piece in [*letters, "a", "0", " ", "a ", "a,"])]
    for probe in probes:
        try:
            match = pattern.search(probe, timeout=_PROBE_SECONDS)
        except TimeoutError:
            message = "This pattern can take very long; avoid repetition within repetition."
            raise InvalidSettings(field, message) from None
        if match is not None and match.end() == match.start():
            raise InvalidSettings(field, "This pattern matches the empty text.")


def word_list(words: list[str], *, field: str, ignore_case: bool = True, whole_words: bool = True) -> WordList:
    """Any of these words or phrases. Raises InvalidSettings for one in which there is nothing to be seen."""
    for index, word in enumerate(words):
        if not is_visible(word):
            raise InvalidSettings(f"{field}[{index}]", "A word must not be empty.")
    return WordList(words, ignore_case=ignore_case, whole_words=whole_words)
