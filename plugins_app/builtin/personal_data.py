"""Finding e-mail addresses, phone numbers, payment cards and IBANs in running text.

Candidates are found by one pattern and then checked: a card by the check digit of ISO/IEC 7812 (Luhn), an IBAN by its
country's length and the remainder of ISO 7064 (mod 97). Digits of any script count; separators may be any of the
spaces and dashes, and invisible characters between digits hide nothing.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

import regex

KINDS = ("email", "phone", "card", "iban")

_INVISIBLE = "\u00ad\u200b-\u200d\u2060\ufeff"
_GAP = rf"[ \t\u00a0\u2007\u2009\u202f.\-\u2010-\u2015{_INVISIBLE}]"
_ANY_GAP = rf"[ \t\u00a0\u2007\u2009\u202f.\-\u2010-\u2015/(){_INVISIBLE}]"
# Letters of scripts that put spaces between words; else a whole sentence could be the beginning of an address.
_LOCAL = r"[\p{Latin}\p{Cyrillic}\p{Greek}\p{N}._%+'\-]"
# One place before each @ to begin at, and a domain of few labels: a text of nothing but beginnings takes no longer for
# each character than any other. The place is where the word or the search begins, or the last that is near enough.
_EMAIL = (
    rf"(?:(?:(?<!{_LOCAL})|\G){_LOCAL}{{1,64}}+|{_LOCAL}{{64}})(?=@)"
    r"@(?:[\p{L}\p{N}][\p{L}\p{N}\-]{0,62}\.){1,12}\p{L}{2,63}+"
)
_IBAN = (
    r"(?<![\p{L}\p{N}])(?:"
    rf"[A-Z]{{2}}[0-9]{{2}}(?:{_GAP}?[A-Z0-9]){{11,30}}+|[A-Za-z]{{2}}[0-9]{{2}}[A-Za-z0-9]{{11,30}}+)"
)
_NUMBER = rf"(?<!\d)\+?\(?\d(?:{_ANY_GAP}{{0,3}}+\d){{6,18}}+"

# Without any of these there is no candidate, only perhaps the beginning of one, at the end.
_TELLING = re.compile(r"[@\d]")
_BEGINNING = regex.compile(rf"(?r)[{_LOCAL[1:-1]}(]{{0,64}}+\Z")

# No candidate goes on beyond one of these.
_BORDER = re.compile(r"[,;:!?\"\n]|[ \t][a-z]")

_FIRST_GROUP = re.compile(r"\D*\d+")
_CARD_GAP = re.compile(rf"\d(?:{_GAP}?\d)*")
_MIN_CARD, _MAX_CARD = 13, 19
_CARD_BEGINNINGS = (2, 3, 4, 5, 6)
_DIGIT = re.compile(r"\d")
_DOUBLED = {digit: sum(divmod(2 * int(digit), 10)) for digit in "0123456789"}

_DATE = re.compile(r"\d{1,4}[./\-]\d{1,2}[./\-]\d{1,4}(?!\d)")
_PHONES = (
    # +49 30 901820, 0049 (0)30 901820
    re.compile(rf"(?:\+|00){_ANY_GAP}{{0,2}}[1-9](?:{_ANY_GAP}{{0,3}}\d){{6,14}}(?!\d)"),
    # 555-123-4567, (555) 123 4567, 1.555.123.4567
    re.compile(r"(?:1[ .\-])?\(?\d{3}\)?[ .\-]{1,2}\d{3}[ .\-]\d{4}(?!\d)"),
    # 030 901820, (020) 7946 0958, 0171/1234567
    re.compile(r"\(?0\d{1,5}\)?[ /\-]{1,3}\d(?:[ /\-]?\d){4,9}(?!\d)"),
)

_IBAN_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
_LENGTH_OF = {country: length for length, countries in _IBAN_LENGTHS.items() for country in countries.split()}


def candidates(kinds: Iterable[str]) -> Any:
    """A pattern for whatever may be of these kinds; `decide` tells what is."""
    wanted = set(kinds)
    parts = [rf"(?P<email>{_EMAIL})"] if "email" in wanted else []
    parts += [rf"(?P<iban>{_IBAN})"] if "iban" in wanted else []
    parts += [rf"(?P<number>{_NUMBER})"] if wanted & {"phone", "card"} else []
    return regex.compile("|".join(parts))


def glance(text: str, at: int) -> int | None:
    """Up to which place a text can't hold any candidate, whatever follows; None if it must be searched."""
    if _TELLING.search(text, at):
        return None
    place: int = _BEGINNING.search(text, at).start()
    return place


def places(text: str) -> Iterator[tuple[int, int]]:
    """Where in a whole text candidates can be, from left to right: for most of it a glance is enough."""
    at = 0
    while (telling := _TELLING.search(text, at)) is not None:
        start: int = _BEGINNING.search(text, at, telling.start()).start()
        border = _BORDER.search(text, telling.end())
        at = len(text) if border is None else border.start()
        yield start, at


def decide(match: Any, kinds: frozenset[str]) -> tuple[str, int]:
    """The kind of what a candidate begins with ("" if it is nothing), and where that ends in the searched text.

    Of a candidate that is nothing only the first group is passed, since the rest may begin something.
    """
    start: int = match.start()
    text: str = match.group()
    if match.lastgroup == "email":
        return "email", match.end()
    if match.lastgroup == "iban":
        length = _iban_length(text)
        return ("iban", start + length) if length else ("", start + 2)
    followed_by_digit = match.string[match.end() : match.end() + 1].isdecimal()
    length = _card_length(text, open_end=followed_by_digit) if "card" in kinds else 0
    if length:
        return "card", start + length
    length = _phone_length(text, open_end=followed_by_digit) if "phone" in kinds else 0
    if length and not match.string[start - 1 : start].isalpha():
        return "phone", start + length
    group = _FIRST_GROUP.match(text)
    return "", start + (group.end() if group else 1)


def passes_luhn(digits: str) -> bool:
    """Whether the check digit of ISO/IEC 7812-1, annex B, is right."""
    doubled = sum(_DOUBLED[digit] for digit in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + doubled) % 10 == 0


def passes_mod_97(iban: str) -> bool:
    """Whether the check digits of ISO 13616 are right; `iban` without separators, in capitals."""
    moved = iban[4:] + iban[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def _iban_length(text: str) -> int:
    """Characters that the IBAN at the beginning takes up, separators included; 0 if there is none."""
    wanted = _LENGTH_OF.get(text[:2].upper(), 0)
    taken = [at for at, character in enumerate(text) if character.isalnum()][:wanted]
    if not wanted or len(taken) < wanted:
        return 0
    end = taken[-1] + 1
    return end if passes_mod_97("".join(text[at] for at in taken).upper()) else 0


def _card_length(text: str, *, open_end: bool) -> int:
    """Characters that the card number at the beginning takes up; 0 if there is none. It ends where a group ends."""
    if unicodedata.decimal(text[0], 0) not in _CARD_BEGINNINGS:
        return 0
    run = _CARD_GAP.match(text)
    places = [found.start() for found in _DIGIT.finditer(run.group())] if run else []
    if len(places) < _MIN_CARD:
        return 0
    digits = "".join(str(unicodedata.decimal(text[at])) for at in places)
    for count in range(min(_MAX_CARD, len(digits)), _MIN_CARD - 1, -1):
        end = places[count - 1] + 1
        at_border = not text[end].isdecimal() if end < len(text) else not open_end
        if at_border and passes_luhn(digits[:count]):
            return end
    return 0


def _phone_length(text: str, *, open_end: bool) -> int:
    for pattern in _PHONES:
        found = pattern.match(text)
        if found and not (found.end() == len(text) and open_end) and not _DATE.match(text):
            return found.end()
    return 0
