"""Finding any of many words and phrases in a text that is whole, or still being written.

A text is cut into tokens (words, white space, other characters), which are looked up in a tree of the phrases' tokens:
one look for most of them, however many phrases there are. That is quicker than any regular expression of as many words
(`python -m benchmarks plugins` compares them), and takes no longer for one text than for another, so that no time limit
is needed.
"""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

import regex

# What is not seen must not hide a word: these count as a part of the word around them.
_INVISIBLE = "\u00ad\u200b-\u200d\u2060\ufeff"
_HIDDEN = re.compile(f"[{_INVISIBLE}]+")
_SPACE = regex.compile(r"\s")
_IN_WORDS = regex.compile(rf"[\w{_INVISIBLE}]")
_WORDS = regex.compile(rf"[\w{_INVISIBLE}]+|\s+|.", regex.DOTALL)
_CHARACTERS = regex.compile(rf"\s+|.[\p{{M}}{_INVISIBLE}]*", regex.DOTALL)
# The same for ASCII, sooner.
_ASCII_WORDS = re.compile(r"\w+|\s+|.", re.ASCII | re.DOTALL)
_ASCII_CHARACTERS = re.compile(r"\s+|.", re.ASCII | re.DOTALL)
# Beginnings that are so few are sought one by one first: the text is seldom cut into tokens then.
_FEW = 16
_ODD_SPACE = re.compile(r"\s\s|[^\S ]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was found; as a regular expression's match tells it."""

    first: int
    behind: int

    def start(self) -> int:
        return self.first

    def end(self) -> int:
        return self.behind


class _Node:
    """A beginning of phrases: the tokens that may follow, and whether one of them ends here."""

    __slots__ = ("_names", "is_end", "next")

    def __init__(self) -> None:
        self.next: dict[str, _Node] = {}
        self.is_end = False
        self._names: list[str] | None = None

    def may_begin(self, part: str) -> bool:
        """Whether a token that may follow begins so."""
        if self._names is None:
            self._names = sorted(self.next)
        at = bisect_left(self._names, part)
        return at < len(self._names) and self._names[at].startswith(part)


class WordList:
    """Words and phrases to be sought, the longest at each place. White space in them stands for any; characters that
    Unicode spells in several ways are the same. `whole_words`: not within longer words."""

    def __init__(self, words: Iterable[str], *, ignore_case: bool = True, whole_words: bool = True) -> None:
        self._ignore_case = ignore_case
        self._whole_words = whole_words
        self._root = _Node()
        for word in words:
            node = self._root
            for token in self._read(word.strip())[1]:
                node = node.next.setdefault(token, _Node())
            node.is_end = True
        self._few = tuple(filter(str.isascii, self._root.next)) if len(self._root.next) <= _FEW else None

    def search(self, text: str, at: int = 0, end: int | None = None) -> Place | None:
        """The first of them in a text that is whole, or ends at `end`."""
        if self._few is not None and text.isascii():
            lowered = text.lower() if self._ignore_case else text
            if not any(token in lowered for token in self._few):
                return None
        return self._first(text[:end] if end is not None else text, at, is_whole=True)[0]

    def settled(self, text: str, at: int) -> tuple[Place | None, int]:
        """The first from `at` on that no further text can change, and the place up to which all is certain."""
        return self._first(text, at, is_whole=False)

    def _first(self, text: str, at: int, *, is_whole: bool) -> tuple[Place | None, int]:
        tokens, folded = self._read(text[at:])
        root = self._root.next
        is_open = bool(tokens) and not is_whole and self._grows(tokens[-1])
        looked_up = folded[:-1] if is_open else folded
        if root.keys().isdisjoint(looked_up):
            firsts: Iterable[int] = ()
        else:
            firsts = (index for index, token in enumerate(looked_up) if token in root)
        for first in firsts:
            if not self._begins(text, at, tokens, first):
                continue
            behind, may_go_on = self._followed(tokens, folded, first, is_open=is_open, is_whole=is_whole)
            if may_go_on:
                return None, _place(at, tokens, first)
            if behind:
                start = _place(at, tokens, first)
                return Place(start, start + sum(map(len, tokens[first:behind]))), len(text)
        if is_open and self._root.may_begin(_begun(folded[-1])) and self._begins(text, at, tokens, len(tokens) - 1):
            return None, len(text) - len(tokens[-1])
        return None, len(text)

    def _followed(
        self, tokens: list[str], folded: list[str], first: int, *, is_open: bool, is_whole: bool
    ) -> tuple[int, bool]:
        """Behind which token the longest phrase from the first on ends (0: there is none), and whether the text to come
        may make it another."""
        node, behind = self._root, 0
        for index in range(first, len(folded)):
            if is_open and index == len(folded) - 1:
                return behind, node.may_begin(_begun(folded[index]))
            following = node.next.get(folded[index])
            if following is None:
                return behind, False
            node = following
            if node.is_end and self._ends(tokens, index):
                behind = index + 1
        return behind, not is_whole

    def _begins(self, text: str, at: int, tokens: list[str], index: int) -> bool:
        before = tokens[index - 1][-1:] if index else text[at - 1 : at] if at else ""
        return not self._whole_words or _IN_WORDS.match(before) is None

    def _ends(self, tokens: list[str], index: int) -> bool:
        if not self._whole_words or index + 1 == len(tokens):
            return True
        return _IN_WORDS.match(tokens[index]) is not None or _IN_WORDS.match(tokens[index + 1]) is None

    def _grows(self, token: str) -> bool:
        """Whether the text to come may make this token longer."""
        return not self._whole_words or _SPACE.match(token) is not None or _IN_WORDS.match(token) is not None

    def _read(self, text: str) -> tuple[list[str], list[str]]:
        """The tokens of a text, and what all spellings of each have in common."""
        if not text.isascii():
            tokens = (_WORDS if self._whole_words else _CHARACTERS).findall(text)
            return tokens, [self._fold(token) for token in tokens]
        text = text.lower() if self._ignore_case else text
        tokens = (_ASCII_WORDS if self._whole_words else _ASCII_CHARACTERS).findall(text)
        if _ODD_SPACE.search(text) is None:
            return tokens, tokens
        return tokens, [" " if _SPACE.match(token) else token for token in tokens]

    def _fold(self, token: str) -> str:
        if _SPACE.match(token):
            return " "
        if not token.isascii():
            token = unicodedata.normalize("NFKD", _HIDDEN.sub("", token))
        return unicodedata.normalize("NFKD", token.casefold()) if self._ignore_case else token


def is_visible(word: str) -> bool:
    """Whether there is more in it than white space and characters that are not seen."""
    return bool(_HIDDEN.sub("", word).strip())


def _begun(folded: str) -> str:
    """What is certain of a token that grows: marks behind a character may still change their order."""
    if folded.isascii():
        return folded
    while folded and unicodedata.combining(folded[-1]):
        folded = folded[:-1]
    return folded


def _place(at: int, tokens: list[str], index: int) -> int:
    return at + sum(map(len, tokens[:index]))
