"""In which language a text is, as far as its script and its commonest words tell. Small, quick, and often unsure.

A script that one language of ours writes decides alone. Latin letters are told apart by function words, the words that
every text of some length has; a text with too few of them, or with those of several languages, is of unknown language.
"""

import re
from collections import Counter

_LATIN = {
    "de": (
        "der die das und ist nicht ein eine ich du wir sie es mit von zu auf für im den dem des wie was "
        "wenn kann bitte auch aber oder über nach bei mir sind hat wird"
    ),
    "en": (
        "the and is of to in that it for you with on are was this be have not what how why can do your my "
        "please write me as at from by or which would a an"
    ),
    "es": (
        "el la los las de y que en un una es no por con para como qué cómo del se su al más pero está son "
        "me puedes mi este esta lo"
    ),
    "fr": (
        "le la les de des et est un une que qui dans pour pas sur avec ce cette il elle nous vous je du "
        "au aux plus comment pourquoi mais ou être sont votre"
    ),
    "it": (
        "il lo la gli le di e che è un una non per con come del della sono mi si nel più cosa questo "
        "questa ma anche puoi al dei"
    ),
    "nl": (
        "de het een en is van in dat niet op te zijn met voor die ik je wij hoe wat waarom kan maar ook "
        "aan naar bij er wordt mijn deze dit"
    ),
    "pl": ("i w na nie się z do to jest że jak o co czy po dla ale od przez są ten ta jestem który która tak może"),
    "pt": (
        "o a os as de e que em um uma é não por com para como do da no na se mais mas você seu sua são me "
        "está isso qual"
    ),
    "sv": (
        "och att det är en ett som på av för med den inte till har jag du vi hur vad varför kan men om "
        "från eller detta vara"
    ),
    "tr": ("ve bir bu için ile de da ne nasıl mi mı değil çok ben sen o var gibi daha ama olarak kadar neden olan en"),
}
_SCRIPTS = {
    "ar": r"[\u0600-\u06ff\u0750-\u077f]",
    "el": r"[\u0370-\u03ff\u1f00-\u1fff]",
    "he": r"[\u0590-\u05ff]",
    "hi": r"[\u0900-\u097f]",
    "ja": r"[\u3040-\u30ff]",
    "ko": r"[\u1100-\u11ff\uac00-\ud7af]",
    "ru": r"[\u0400-\u04ff]",
    "th": r"[\u0e00-\u0e7f]",
    "zh": r"[\u3400-\u4dbf\u4e00-\u9fff]",
}
KNOWN = frozenset(_LATIN) | frozenset(_SCRIPTS) | {"uk"}

_UKRAINIAN = re.compile(r"[іїєґІЇЄҐ]")
_SCRIPT_PATTERNS = {language: re.compile(pattern) for language, pattern in _SCRIPTS.items()}
_FOREIGN = re.compile("|".join(_SCRIPTS.values()))
_LETTER = re.compile(r"[^\W\d_]")
_LETTERS = re.compile(r"[^\W\d_].*?[^\W\d_]", re.DOTALL)  # a text with fewer is in no language
_WORD = re.compile(r"[^\W\d_]+")
_LANGUAGES_OF: dict[str, list[str]] = {}
for _language, _words in _LATIN.items():
    for _word in _words.split():
        _LANGUAGES_OF.setdefault(_word, []).append(_language)

_SAMPLE = 4000
_MIN_WORDS = 2
_LEAD = 1.25  # how far the best must be ahead of the second


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of a text's language; None when that can't be told."""
    sample = text if len(text) <= _SAMPLE else text[: _SAMPLE // 2] + " " + text[-_SAMPLE // 2 :]
    if _LETTERS.search(sample) is None:
        return None
    if _FOREIGN.search(sample) is None:
        return _of_words(sample)
    letters = len(_LETTER.findall(sample))
    counts = {language: len(pattern.findall(sample)) for language, pattern in _SCRIPT_PATTERNS.items()}
    foreign = sum(counts.values())
    if foreign * 2 > letters:
        return _of_script(sample, counts)
    return _of_words(sample)


def _of_script(sample: str, counts: dict[str, int]) -> str:
    if counts["ja"]:
        counts["ja"] += counts["zh"]  # Japanese writes Chinese characters among its own, Chinese no kana
    best = max(counts, key=lambda language: counts[language])
    return "uk" if best == "ru" and _UKRAINIAN.search(sample) else best


def _of_words(sample: str) -> str | None:
    scores: dict[str, float] = {}
    found = 0
    for word, count in Counter(_WORD.findall(sample.lower())).items():
        if (languages := _LANGUAGES_OF.get(word)) is None:
            continue
        found += count
        for language in languages:  # a word of many languages tells little
            scores[language] = scores.get(language, 0.0) + count / len(languages)
    if found < _MIN_WORDS:
        return None
    best, second = sorted([*scores.items(), ("", 0.0), ("", 0.0)], key=lambda item: -item[1])[:2]
    return best[0] if best[1] >= second[1] * _LEAD else None
