"""Replacing what a pattern matches in a text that is still being written.

The pieces that go out are, joined, what the whole text would have become, and nothing of a match goes out before it is
known whether it is one. Text is held back only while it may be the beginning of a match.
"""

from collections.abc import Callable
from typing import Any, Protocol

import regex

# A character that Unicode will never assign: a match cannot be followed by it, so that a pattern with it behind never
# matches, but tells from where on the text to come decides.
_NEVER = "\U0010ffff"
_CONTEXT = 64
# A text held back that is longer than this is looked at again only when it has grown by an eighth.
_LONG = 512

# What a match becomes, and where to go on.
Replace = Callable[[Any], tuple[str, int]]

# Up to which place a text, from the given one on, has no match whatever follows; None if it must be searched.
Glance = Callable[[str, int], int | None]


class Sought(Protocol):
    """What can be sought in streams. A match has at least `start()` and `end()`."""

    def settled(self, text: str, at: int) -> tuple[Any, int]:
        """The first match from `at` on that no further text can change, and the place up to which all is certain."""

    def search(self, text: str, at: int = 0, end: int | None = None) -> Any:
        """The first match in a text that is whole, or ends at `end`; None if there is none."""


class StreamPattern:
    """A pattern made ready to be sought in streams. `seconds`: the time limit of each search; None for none."""

    def __init__(self, pattern: Any, *, seconds: float | None = None) -> None:
        self._limits: dict[str, Any] = {} if seconds is None else {"timeout": seconds}
        self._whole = pattern
        # The flags belong to the original's source, which may itself begin with some.
        self._open = regex.compile(f"(?>{pattern.pattern}){_NEVER}", pattern.flags & ~regex.DEBUG)

    def settled(self, text: str, at: int) -> tuple[Any, int]:
        """As in Sought. Raises TimeoutError."""
        match = self._whole.search(text, at, partial=True, **self._limits)
        if match is None:
            return None, len(text)
        if match.partial:
            return None, match.start()
        opened = self._open.search(text, at, partial=True, **self._limits)
        certain = len(text) if opened is None else opened.start()
        return (match if match.start() < certain else None), certain

    def search(self, text: str, at: int = 0, end: int | None = None) -> Any:
        """As in Sought. Raises TimeoutError."""
        return self._whole.search(text, at, end, **self._limits)


class Substitution:
    """A text filter that replaces every match. `replace` may raise Blocked; `glance` saves searching most pieces."""

    def __init__(self, pattern: Sought, replace: Replace, glance: Glance | None = None) -> None:
        self._pattern = pattern
        self._replace = replace
        self._glance = glance
        self._before = ""
        self._looked_at = 0

    def __call__(self, text: str, is_last: bool) -> tuple[str, str]:
        if not is_last and len(text) > _LONG and len(text) * 8 < self._looked_at * 9:
            return "", text
        whole, at = self._before + text, len(self._before)
        if self._glance is not None and not is_last and (certain := self._glance(whole, at)) is not None:
            return self._split(whole, at, certain, "")
        out: list[str] = []
        while True:
            if is_last:
                match, certain = self._pattern.search(whole, at), len(whole)
            else:
                match, certain = self._pattern.settled(whole, at)
            if match is None:
                break
            replacement, end = self._replace(match)
            out += whole[at : match.start()], replacement
            if end == match.start():  # of a pattern that looks around and takes nothing
                out.append(whole[end : end + 1])
                end += 1
            at = end
        return self._split(whole, at, certain, "".join(out))

    def _split(self, whole: str, at: int, certain: int, out: str) -> tuple[str, str]:
        self._before = whole[max(0, certain - _CONTEXT) : certain]
        self._looked_at = len(whole) - certain
        return out + whole[at:certain], whole[certain:]


def substitute(pattern: Sought, replace: Replace, text: str) -> str:
    """A whole text with every match replaced."""
    return Substitution(pattern, replace)(text, True)[0]
