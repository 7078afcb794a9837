import pytest

from plugins_app.hookspecs import InvalidSettings
from plugins_app.patterns import compile_pattern


@pytest.mark.parametrize(
    "source",
    ["(a+)+$", "(x+x+)+y", "([a-zA-Z]+)*!", r"^(\d+)*$", r"(\d+,?)+x", "(.*?,){11}P"],
)
def test_a_pattern_that_can_take_for_ever_is_refused(source: str) -> None:
    with pytest.raises(InvalidSettings, match=r"very long|empty") as refused:
        compile_pattern(source, field="rules[0].pattern")
    assert refused.value.field == "rules[0].pattern"


@pytest.mark.parametrize("source", ["(", "[a", "a{2,1}", "(?P<x", r"\L<words>", "*", "a" * 1001])
def test_what_is_no_pattern_is_refused(source: str) -> None:
    with pytest.raises(InvalidSettings):
        compile_pattern(source, field="pattern")


@pytest.mark.parametrize("source", ["a*", "", "(?:)", "x?|y", r"\b"])
def test_a_pattern_for_nothing_is_refused(source: str) -> None:
    with pytest.raises(InvalidSettings, match="empty"):
        compile_pattern(source, field="pattern")


@pytest.mark.parametrize("source", ["(?r)abc", "(?:abc){e<=1}", r"\((?:[^()]|(?R))*\)", "(?:a{i})"])
def test_what_partial_matching_does_not_know_is_refused(source: str) -> None:
    with pytest.raises(InvalidSettings, match=r"not supported|regular expression"):
        compile_pattern(source, field="pattern")


@pytest.mark.parametrize("source", ["foo$", r"foo\Z", r"foo\B", r"foo\z"])
def test_the_end_of_the_text_is_not_known_in_a_stream(source: str) -> None:
    with pytest.raises(InvalidSettings):
        compile_pattern(source, field="pattern", streamed=True)


@pytest.mark.parametrize("source", ["[$]5", r"\$\d+", r"a{2,3}b", r"\p{Lu}{2}\d", r"(?<=x)y", r"[\]$]x"])
def test_what_only_looks_like_that_is_taken(source: str) -> None:
    compile_pattern(source, field="pattern", streamed=True)
