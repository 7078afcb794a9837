"""Personal data on nasty input: what must be found, what must be left alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins_app.builtin.personal_data import KINDS, passes_luhn, passes_mod_97
from plugins_app.builtin.pii_redactor import PiiRedactor
from plugins_app.hookspecs import InvalidSettings, Prompt, Turn
from plugins_app.substitution import substitute
from tests.plugins_app.plugging import REQUEST, answered, loaded, prompted
from tests.plugins_app.streaming import cut
from tests.plugins_app.timing import thread_seconds

FOUND = [
    # e-mail
    ("write to john.doe+news@mail.example.co.uk.", "write to [email]."),
    ("<JOHN@EXAMPLE.COM>,jane_d%x@example.org", "<[email]>,[email]"),
    ("mailto:o'brien@exämple.de!", "mailto:[email]!"),
    ("jörg@example.com", "[email]"),
    ("иван@пример.рф", "[email]"),
    ("请写信给bob@example.com谢谢", "请写信给[email]"),
    ("a@b.io", "[email]"),
    # cards, all of them well-known test numbers
    ("4111 1111 1111 1111", "[card]"),
    ("card:4111111111111111;", "card:[card];"),
    ("5500-0000-0000-0004", "[card]"),
    ("3782 822463 10005", "[card]"),
    ("6011.0009.9013.9424", "[card]"),
    ("4111\u00a01111\u202f1111\u20111111", "[card]"),
    ("4111\u200b1111\u200b1111\u200b1111", "[card]"),
    ("４１１１ １１１１ １１１１ １１１１", "[card]"),
    ("order 12 4111 1111 1111 1111 12/29", "order 12 [card] 12/29"),
    ("4111 1111 1111 1111 5500 0000 0000 0004", "[card] [card]"),
    ("DE89 4111 1111 1111 1111", "DE89 [card]"),
    ("No4111111111111111", "No[card]"),
    # IBAN
    ("DE89 3704 0044 0532 0130 00 is mine", "[iban] is mine"),
    ("DE89370400440532013000", "[iban]"),
    ("de89370400440532013000", "[iban]"),
    ("GB82 WEST 1234 5698 7654 32, IBAN", "[iban], IBAN"),
    ("NO93 8601 1117 947 OSLO BANK", "[iban] OSLO BANK"),
    ("MT84-MALT-0110-0001-2345-MTLC-AST0-01S", "[iban]"),
    ("FR14 2004 1010 0505 0001 3M02 606", "[iban]"),
    # phones
    ("+49 30 901820", "[phone]"),
    ("+1 (555) 123-4567.", "[phone]."),
    ("call (555) 123-4567 or 555.123.4567", "call [phone] or [phone]"),
    ("0049 (0)30 90 18 20", "[phone]"),
    ("030/901820", "[phone]"),
    ("(020) 7946 0958", "[phone]"),
    ("01 02 03 04 05", "[phone]"),
]
LEFT = [
    "a@b", "user@localhost", "@handle", "john@", "a @ b.com", "price@ 5", "x@.com",
    "4111 1111 1111 1112",  # its check digit is wrong
    "1234567890123456", "9780306406157", "00000000000000000",
    "41111111111111110000000000000",  # too long for a card, and within one block
    "XX82 WEST 1234 5698 7654 32", "DE8937040044053201300",
    "2025-11-22 17:56", "01-01-2025", "01.01.2025 10:30", "05/11/2025", "192.168.100.200", "10.0.0.1",
    "3.14159265358979", "1 2 3 4 5 6 7 8 9 10 11 12", "in 2024 and 2025", "v1.2.3-4", "1,000,000", "1234567",
    "550e8400-e29b-41d4-a716-446655440000",
]  # fmt: skip


def redacted(text: str) -> str:
    return str(prompted(PiiRedactor, {}, Prompt(text=text)).text)


@pytest.mark.parametrize(("text", "expected"), FOUND)
def test_it_is_found_in_prompts(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize("text", LEFT)
def test_it_is_left_alone(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(("text", "expected"), FOUND)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_it_is_found_in_streams_wherever_the_tokens_end(text: str, expected: str, size: int) -> None:
    whole = f"So: {text} and so on"
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert "".join(answered(PiiRedactor, {}, pieces)) == redacted(whole)
    assert expected.split("]", maxsplit=1)[0] in redacted(whole)


NASTY = st.lists(
    st.one_of(
        st.sampled_from(
            ["4111 1111 1111 1111", "john@x.org", "DE89 3704 0044 0532 0130 00", "+49 30 901820", "(555) 123-4567"]
        ),
        st.text(alphabet="0145 9-.+()/@aDE8x\n", max_size=12),
    ),
    max_size=6,
).map("".join)


@settings(max_examples=400, deadline=None)
@given(pieces=cut(NASTY))
def test_a_stream_becomes_what_the_whole_would_have(pieces: list[str]) -> None:
    assert "".join(answered(PiiRedactor, {}, pieces)) == redacted("".join(pieces))


@settings(max_examples=400, deadline=None)
@given(texts=st.lists(st.one_of(NASTY, st.text(alphabet=" ,:\n\u00a0aZé4.@", max_size=8)), max_size=6))
def test_looking_only_where_something_can_be_finds_the_same(texts: list[str]) -> None:
    plugin, text = PiiRedactor(), "".join(texts)
    plugin.setup({"kinds": KINDS, "input": True, "output": True, "replacement": "[{kind}]"})
    assert plugin._redacted(text) == substitute(plugin._pattern, plugin._replace, text)


def test_ordinary_words_are_held_back_for_one_token_at_most() -> None:
    out = answered(PiiRedactor, {}, ["The", " quick", " brown", " fox", ".", " It"])
    assert out == ["", "The ", "quick ", "brown ", "", "fox. ", "It"]


def test_only_the_chosen_kinds_go() -> None:
    text = "john@x.org 4111 1111 1111 1111"
    assert prompted(PiiRedactor, {"kinds": ["card"]}, Prompt(text=text)).text == "john@x.org [card]"
    assert prompted(PiiRedactor, {"kinds": ["email"]}, Prompt(text=text)).text == "[email] 4111 1111 1111 1111"


def test_every_part_of_a_prompt_is_redacted() -> None:
    prompt = Prompt(messages=(Turn("user", "I am a@b.io"), Turn("assistant", "Hi a@b.io")), system="Serve a@b.io")
    found = prompted(PiiRedactor, {"replacement": "<{kind}>"}, prompt)
    assert [text for _, text in found.parts()] == ["I am <email>", "Hi <email>", "Serve <email>"]


def test_each_way_can_be_switched_off() -> None:
    assert prompted(PiiRedactor, {"input": False}, Prompt(text="a@b.io")).text == "a@b.io"
    assert answered(PiiRedactor, {"output": False}, ["a@b", ".io"]) == ["a@b", ".io", ""]


def test_bad_settings_are_named() -> None:
    with pytest.raises(InvalidSettings) as refused:
        loaded(PiiRedactor, {"kinds": ["email", "shoe size"]})
    assert refused.value.field == "kinds[1]"


@pytest.mark.parametrize(("digits", "valid"), [("79927398713", True), ("79927398710", False), ("0", True)])
def test_luhn(digits: str, valid: bool) -> None:
    assert passes_luhn(digits) is valid


@pytest.mark.parametrize(("iban", "valid"), [("GB82WEST12345698765432", True), ("GB82WEST12345698765433", False)])
def test_mod_97(iban: str, valid: bool) -> None:
    assert passes_mod_97(iban) is valid


HOSTILE = [
    "1 ", "0 ", "(1", "+1", "4111", "4111 1111 1111 1112 ", "2 2-", "1.1.1/", "00 1 1 1 1 1 1 1",
    "a@a.", "a@" + "a." * 400, "x" * 64 + "@" + "a." * 200, "a@" + "b" * 200, "x@", "a.", "a@b-",
    "AA00AAAA ", "DE89 3704 0044 0532 0130 01 ",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_grows_with_the_text_alone(piece: str) -> None:
    short = piece * (4000 // len(piece) + 1)
    took = [thread_seconds(lambda text=text: redacted(text)) for text in (short, short * 4)]
    assert took[1] < 8 * took[0] + 0.005  # were it quadratic, 16 times as long


@pytest.mark.parametrize("piece", ["a@" + "a." * 400, "x" * 64 + "@" + "a." * 200, "a." * 400, "1 " * 400])
def test_little_is_held_back_of_what_only_looks_like_personal_data(piece: str) -> None:
    plugin = loaded(PiiRedactor)
    text_filter = plugin.call.token_stream(request=REQUEST)
    held = ""
    for at in range(0, len(piece), 4):
        _, held = text_filter(held + piece[at : at + 4], False)
        assert len(held) < 512


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("." * 100 + "john@example.com", "." * 40 + "[email]"),  # the last 64 characters can be its name
        ("+49 30 901820john@example.com", "[phone][email]"),
        ("john@a.b.c.d.e.f.g.h.i.j.example.com", "[email]"),
    ],
)
def test_it_is_found_where_a_search_goes_on(text: str, expected: str) -> None:
    assert redacted(text) == expected
    assert "".join(answered(PiiRedactor, {}, list(text))) == expected
