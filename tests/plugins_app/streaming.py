"""Filters as a chain calls them: with what they held back in front of the next piece."""

from collections.abc import Iterable, Iterator

from hypothesis import strategies as st

from plugins_app.hookspecs import TextFilter


def pieces_out(text_filter: TextFilter, pieces: Iterable[str]) -> Iterator[str]:
    """What goes out for each piece, and at the end."""
    held = ""
    for piece in pieces:
        out, held = text_filter(held + piece, False)
        yield out
    out, held = text_filter(held, True)
    assert held == ""
    yield out


def streamed(text_filter: TextFilter, pieces: Iterable[str]) -> str:
    return "".join(pieces_out(text_filter, pieces))


@st.composite
def cut(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> list[str]:
    """A text in pieces of one to eight characters."""
    text = draw(texts)
    pieces = []
    while text:
        size = draw(st.integers(1, 8))
        pieces.append(text[:size])
        text = text[size:]
    return pieces
