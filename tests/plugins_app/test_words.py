"""Word lists find what a regular expression of the same words would, sooner, wherever a stream's pieces are cut."""

import random

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins_app.hookspecs import InvalidSettings
from plugins_app.patterns import word_list
from plugins_app.substitution import Substitution, substitute
from plugins_app.words import WordList
from tests.plugins_app.streaming import cut, pieces_out, streamed
from tests.plugins_app.timing import thread_seconds

WORDS = ["plan", "secret plan", "secret", "c++", ".net", "a b", "a b c", "b c d", "caf\u00e9", "ab", "+", "a-b"]
TEXTS = st.lists(
    st.one_of(st.sampled_from([*WORDS, "planet", "caf", "A  B", "secret\n"]), st.text("abc+-. \n\u00e9x", max_size=4))
).map("".join)
NASTY_LETTERS = "aAbcEe\u0301\u0323\u00e9\u00df\u200b\u00ad\uff41\ufb01 \n\u00a0+."
NASTY = st.lists(st.one_of(st.sampled_from(WORDS), st.text(NASTY_LETTERS, max_size=4))).map("".join)


def mark(match: object) -> tuple[str, int]:
    return "#", match.end()  # type: ignore[attr-defined]  # a match of either kind


def found(words: list[str], text: str, *, ignore_case: bool = True, whole_words: bool = True) -> str | None:
    place = WordList(words, ignore_case=ignore_case, whole_words=whole_words).search(text)
    return None if place is None else text[place.start() : place.end()]


@pytest.mark.parametrize("whole_words", [True, False])
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_it_finds_what_a_pattern_of_the_words_finds(whole_words: bool, text: str) -> None:
    longest_first = sorted(WORDS, key=len, reverse=True)
    body = "|".join(r"\s+".join(regex.escape(part) for part in word.split(" ")) for word in longest_first)
    source = rf"(?<!\w)(?:{body})(?!\w)" if whole_words else body
    expected = regex.sub(source, "#", text, flags=regex.IGNORECASE)
    assert substitute(WordList(WORDS, whole_words=whole_words), mark, text) == expected


@pytest.mark.parametrize("ignore_case", [True, False])
@pytest.mark.parametrize("whole_words", [True, False])
@settings(max_examples=300, deadline=None)
@given(pieces=cut(st.one_of(TEXTS, NASTY)))
def test_pieces_become_what_the_whole_becomes(ignore_case: bool, whole_words: bool, pieces: list[str]) -> None:
    words = WordList(WORDS, ignore_case=ignore_case, whole_words=whole_words)
    assert streamed(Substitution(words, mark), pieces) == substitute(words, mark, "".join(pieces))


def test_nothing_of_a_match_goes_out_before_it_is_known() -> None:
    words = WordList(["secret plan"])
    out = list(pieces_out(Substitution(words, mark), ["a se", "cret", " pl", "an", " b", " sec", "ond"]))
    assert out == ["a ", "", "", "", "# b", " ", "second", ""]


def test_text_that_begins_none_of_the_words_is_not_held_back() -> None:
    pieces = ["The", " quick", " brown", " fox", ".", " It", "'d"]
    assert list(pieces_out(Substitution(WordList(["secret plan", "zebra"]), mark), pieces)) == [*pieces, ""]


def test_the_longest_goes_first_and_words_stand_alone() -> None:
    assert found(["secret", "secret plan"], "a SECRET\n \tplan") == "SECRET\n \tplan"
    assert found(["plan"], "planet airplane") is None
    assert found(["plan"], "planet airplane", whole_words=False) == "plan"
    assert found(["c++"], "in C++.") == "C++"
    assert found(["c++"], "C++11") is None
    assert found([".net"], "asp.net") is None
    assert found(["Plan"], "plan", ignore_case=False) is None


@pytest.mark.parametrize(
    "spelling",
    [
        "cafe\u0301",
        "CAF\u00c9",
        "\uff43\uff41\uff46\u00e9",
        "ca\u00adf\u00e9",
        "c\u200ba\u2060f\u00e9",
        "\ufeffcaf\u00e9",
    ],
)
@pytest.mark.parametrize("whole_words", [True, False])
def test_words_are_found_however_unicode_spells_them(spelling: str, whole_words: bool) -> None:
    for word in ("caf\u00e9", "cafe\u0301"):
        assert found([word], f"a {spelling} b", whole_words=whole_words) in (spelling, spelling.lstrip("\ufeff"))


def test_marks_make_another_letter() -> None:
    assert found(["cafe"], "cafe\u0301") is None
    assert found(["cafe"], "cafe\u0301", whole_words=False) is None
    assert found(["strasse"], "STRA\u00dfE") == "STRA\u00dfE"
    assert found(["\u0915"], "\u0915\u093e") is None  # a vowel sign belongs to its word


@pytest.mark.parametrize("word", ["", "  ", "\u200b", " \u00ad"])
def test_a_word_of_nothing_is_refused_by_its_place(word: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        word_list(["a", word], field="rules[1].words")
    assert refused.value.field == "rules[1].words[1]"


# ---------------------------------------------------------------- many words, and hostile texts

_RANDOM = random.Random(5)
MANY = ["".join(_RANDOM.choices("abcdefghijklmnop", k=_RANDOM.randint(4, 12))) for _ in range(5000)]


def test_five_thousand_words_take_no_longer_than_fifty() -> None:
    text = "What is the weather like in the north of the country, and can I go there by train? " * 120
    few, many = WordList(MANY[:50]), WordList(MANY)
    assert thread_seconds(lambda: many.search(text)) < 5 * thread_seconds(lambda: few.search(text)) + 0.001
    assert many.search(f"{text} {MANY[-1]}!") is not None


@pytest.mark.parametrize("whole_words", [True, False])
@pytest.mark.parametrize("piece", ["a ", "a", "ab ", f"{MANY[0][:-1]} ", "\u00e9 ", "a\u0301", " ", "\u200b"])
def test_time_grows_with_the_text_alone(piece: str, whole_words: bool) -> None:
    words = WordList([*MANY, "a a a a a b", "aaaab"], whole_words=whole_words)
    short, long = piece * 4000, piece * 16_000
    assert thread_seconds(lambda: words.search(long)) < 8 * thread_seconds(lambda: words.search(short)) + 0.002
