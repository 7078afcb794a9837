"""What a stream becomes is what its whole text would have become, wherever the pieces are cut."""

import re
import time

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins_app.substitution import StreamPattern, Substitution, substitute
from tests.plugins_app.streaming import cut, pieces_out, streamed

PATTERNS = [
    "secret",
    r"secret\d{0,4}",
    r"\bab\b",
    r"(?<!\w)(?:ab|abc|abcab)(?!\w)",
    "a.*?b",
    "a[^b]*b|c",
    "abc|ab|a",
    "(?i)aB+",
    r"(\w)\1c",
    "a(?=bc)",
    "a(?!b)",
    "(?<=c)a",
    "^a",
    r"(?:a|ab)(?:c|bcd)",
    r"\d{3}-\d{4}",
    r"ab(?:cab)*",
    "é|e\u0301",
    r"(?s)a.c",
    r"[ab]{2,}",
    r"a++b",
]


def replaced(pattern: str, pieces: list[str]) -> str:
    stream = StreamPattern(regex.compile(pattern))
    return streamed(Substitution(stream, lambda match: ("#", match.end())), pieces)


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=150, deadline=None)
@given(pieces=cut(st.text(alphabet="abcdB -1\né\u0301", max_size=40)))
def test_pieces_become_what_the_whole_becomes(pattern: str, pieces: list[str]) -> None:
    whole = "".join(pieces)
    expected = regex.sub(pattern, "#", whole)
    assert replaced(pattern, pieces) == expected
    assert substitute(StreamPattern(regex.compile(pattern)), lambda match: ("#", match.end()), whole) == expected


@given(text=st.text(alphabet="secrt ", max_size=60))
def test_every_character_alone(text: str) -> None:
    assert replaced("secret|rest", list(text)) == re.sub("secret|rest", "#", text)


def test_nothing_of_a_match_goes_out_before_it_is_known() -> None:
    stream = StreamPattern(regex.compile("secret plan"))
    out = list(pieces_out(Substitution(stream, lambda match: ("#", match.end())), ["a se", "cret", " pl", "an", " b"]))
    assert out == ["a ", "", "", "", "# b", ""]


def test_what_only_looks_like_a_match_is_let_go() -> None:
    stream = StreamPattern(regex.compile("secret plan"))
    out = list(pieces_out(Substitution(stream, lambda match: ("#", match.end())), ["a sec", "ond plan"]))
    assert out == ["a ", "second plan", ""]


def test_ordinary_text_is_not_held_back() -> None:
    stream = StreamPattern(regex.compile("zebra"))
    pieces = ["The quick ", "brown ", "fox"]
    assert list(pieces_out(Substitution(stream, lambda match: ("#", match.end())), pieces)) == [*pieces, ""]


def test_a_match_that_goes_on_to_the_end_is_replaced_once_it_is_over() -> None:
    pieces = ["a secret "] + ["very "] * 2000
    assert replaced("secret.*", pieces) == "a #"


def test_a_long_text_held_back_is_not_searched_again_for_each_piece() -> None:
    stream = StreamPattern(regex.compile(r"\{[^}]*\}"))
    began = time.perf_counter()
    streamed(Substitution(stream, lambda match: ("#", match.end())), ["{"] + ["word "] * 8000)
    assert time.perf_counter() - began < 5  # searched each time, it takes minutes


def test_replace_can_say_that_a_candidate_is_none_and_where_to_go_on() -> None:
    def replace(match: regex.Match[str]) -> tuple[str, int]:
        return ("#", match.end()) if match.group() == "aab" else (match.group()[0], match.start() + 1)

    assert substitute(StreamPattern(regex.compile("a+b")), replace, "aaaab ab") == "aa# ab"


def test_a_time_limit_is_kept() -> None:
    stream = StreamPattern(regex.compile("(a+)+$"), seconds=0.01)
    with pytest.raises(TimeoutError):
        Substitution(stream, lambda match: ("#", match.end()))("a" * 20_000 + "!", True)
