"""What it costs to look for 5,000 words: as the plugins do it, and as regular expressions could."""

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import regex

from benchmarks.report import Report, Row

COUNT = 5000
TEXT = (
    "What is the weather like in the north of the country on this day, and can I go there by train? The second one "
    "leaves at nine in the morning and goes by way of the coast, where it may rain for an hour or two. "
) * 20
_LENGTH = 4000
_PIECES = [" weather", " in", " the", " north", ",", " where", " it", " may", " rain", "."]
_ROUNDS = 5

# Looks through a whole text; looks at the end of a stream.
Ways = tuple[Callable[[str], object], Callable[[str], object]]


def costs(report: Report) -> None:
    words, text = _words(), TEXT[:_LENGTH]
    made_by: dict[str, Callable[[list[str]], Ways]] = {
        "a tree of tokens, as the plugins do": _tree_of_tokens,
        "a pattern of alternatives": _alternatives,
        "a pattern with common beginnings once": _common_beginnings,
        "a named list of the regex package": _named_list,
    }
    rows: list[Row] = []
    for name, make in made_by.items():
        whole, piece = make(words)
        row: Row = {"benchmark": "words", "way": name, "words": COUNT}
        row["ready_ms"] = round(_seconds(partial(make, words)) * 1000, 1)
        row["text_ms"] = round(_seconds(partial(whole, text)) * 1000, 2)
        row["piece_us"] = round(_seconds(partial(_each, piece)) / len(_PIECES) * 1e6, 1)
        rows.append(row)
    cells = [[row["way"], row["ready_ms"], row["text_ms"], row["piece_us"]] for row in rows]
    titles = ["with", "made ready, ms", f"{_LENGTH} characters, ms", "a token of a stream, µs"]
    report.add(f"Looking for {COUNT} words", titles, cells, rows)


def _words() -> list[str]:
    """Made-up words of four to ten letters and phrases of two, none of which is in the text; the longest first."""
    choose = random.Random(7)  # noqa: S311  # the same at each run
    made: set[str] = set()
    while len(made) < COUNT:
        word = "".join(choose.choices("abcdefghiklmnoprstuvw", k=choose.randint(3, 9)))
        made.add(f"{word} {word[::-1]}q" if choose.random() < 0.3 else f"{word}q")
    return sorted(made, key=lambda word: (-len(word), word))


def _tree_of_tokens(words: list[str]) -> Ways:
    from plugins_app.words import WordList

    made = WordList(words)
    return made.search, lambda text: made.settled(text, 0)


def _alternatives(words: list[str]) -> Ways:
    return _pattern("|".join(map(_escaped, words)))


def _common_beginnings(words: list[str]) -> Ways:
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for letter in word:
            node = node.setdefault(letter, {})
        node[""] = {}
    return _pattern(_of_tree(tree))


def _of_tree(tree: dict[str, Any]) -> str:
    ways = [_escaped(letter) + _of_tree(rest) for letter, rest in tree.items() if letter]
    if not ways:
        return ""
    body = ways[0] if len(ways) == 1 and "" not in tree else f"(?:{'|'.join(ways)})"
    return f"{body}?" if "" in tree else body


def _named_list(words: list[str]) -> Ways:
    return _pattern(r"\L<words>", words=words)


def _escaped(text: str) -> str:
    return r"\s+".join(regex.escape(part) for part in text.split(" "))


def _pattern(body: str, **lists: Any) -> Ways:
    regex.purge()  # what was compiled before is kept else
    made = regex.compile(rf"(?<!\w)(?:{body})(?!\w)", regex.IGNORECASE, **lists)
    return made.search, partial(made.search, partial=True)


def _each(look: Callable[[str], object]) -> None:
    for piece in _PIECES:
        look(piece)


def _seconds(work: Callable[[], object]) -> float:
    """CPU seconds of the quickest of several runs."""
    runs = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        work()
        runs.append(time.process_time() - began)
    return min(runs)
