"""Tokens to text: whole characters, stop strings across token borders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.runtime.detokenizer import Detokenizer


def _bytes(tokens: list[int] | object) -> str:
    return bytes(tokens).decode(errors="replace")  # type: ignore[call-overload]


def _run(data: bytes, stop: tuple[str, ...] = ()) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(_bytes, stop)  # type: ignore[arg-type]
    pieces = []
    for token in data:
        pieces.append(detokenizer.add(token))
        if detokenizer.stopped:
            break
    pieces.append(detokenizer.flush())
    return pieces, detokenizer


@given(st.text(max_size=60))
def test_pieces_joined_are_the_text(text: str) -> None:
    pieces, detokenizer = _run(text.encode())
    assert "".join(pieces) == detokenizer.text == text


@given(st.text(max_size=40).filter(lambda t: "\ufffd" not in t))
def test_half_a_character_is_never_emitted(text: str) -> None:
    pieces, _ = _run(text.encode())
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_that_never_completes_comes_as_a_replacement_at_the_end() -> None:
    pieces, detokenizer = _run("é".encode()[:1])
    assert pieces == ["", "\ufffd"]
    assert detokenizer.text == "\ufffd"


def test_replacement_characters_that_are_meant_so_come_out_in_time_and_at_bounded_cost() -> None:
    longest = 0

    def decode(tokens: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return "\ufffd" * len(tokens)

    detokenizer = Detokenizer(decode)  # type: ignore[arg-type]
    pieces = [detokenizer.add(0) for _ in range(200)] + [detokenizer.flush()]
    assert "".join(pieces) == "\ufffd" * 200
    assert longest < 32


@given(st.text(alphabet="abc é", max_size=40), st.lists(st.text(alphabet="abc é", min_size=1, max_size=4), max_size=3))
def test_stop_strings_end_the_text_before_the_first_of_them(text: str, stop: list[str]) -> None:
    pieces, detokenizer = _run(text.encode(), tuple(stop))
    ends = [at for at in (text.find(s) for s in stop) if at >= 0]
    # The token by which the first stop string is complete decides; later ones that begin earlier may not be there yet.
    joined = "".join(pieces)
    assert joined == detokenizer.text
    if ends:
        assert detokenizer.stopped
        assert text.startswith(joined)
        assert not any(s in joined for s in stop)
    else:
        assert joined == text


@pytest.mark.parametrize("stop", ["STOP", "é!", "\n\n"])
def test_nothing_of_a_stop_string_leaks_before_it_is_complete(stop: str) -> None:
    pieces, _ = _run(f"abc{stop}def".encode(), (stop,))
    assert "".join(pieces) == "abc"


def test_text_held_for_a_stop_string_comes_when_it_turns_out_not_to_be_one() -> None:
    pieces, detokenizer = _run(b"aSTOxST", ("STOP",))
    assert "".join(pieces) == "aSTOxST"
    assert not detokenizer.stopped
