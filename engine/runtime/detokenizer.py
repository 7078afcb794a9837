"""Tokens to text as they come: whole characters only, and nothing that may turn out to be a stop string."""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
_MAX_CHARACTER_TOKENS = 8

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """Turns one completion's tokens into text, piece by piece.

    The pieces joined are `text`, whatever the borders of tokens, characters and stop strings. A token's text can depend
    on its neighbours, so each new one is decoded together with those before it, back to the last settled place (the
    method of two offsets of Hugging Face's text-generation-inference).
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._prefix = 0  # tokens[prefix:read] give the context in which new tokens are decoded
        self._read = 0  # tokens[:read] have become text
        self._held = ""  # text that may be the beginning of a stop string
        self._emitted: list[str] = []
        self.stopped = False

    @property
    def text(self) -> str:
        return "".join(self._emitted)

    def add(self, token: int) -> str:
        """Take one token; return the text that is certain now, maybe none. Sets `stopped` at a stop string."""
        self._tokens.append(token)
        context = self._decode(self._tokens[self._prefix : self._read])
        whole = self._decode(self._tokens[self._prefix :])
        unsettled = len(whole) <= len(context) or whole.endswith(_REPLACEMENT)
        # No character has more tokens than this: what still ends in U+FFFD then is meant so, or will never be whole.
        if unsettled and len(self._tokens) - self._read < _MAX_CHARACTER_TOKENS:
            return ""
        self._prefix, self._read = self._read, len(self._tokens)
        return self._emit(whole[len(context) :])

    def flush(self) -> str:
        """Return what is still held back, at the end of a completion; half a character becomes U+FFFD."""
        if self.stopped:
            return ""
        context = self._decode(self._tokens[self._prefix : self._read])
        rest = self._decode(self._tokens[self._prefix :])[len(context) :]
        self._read = self._prefix = len(self._tokens)
        found = self._emit(rest) if rest else ""
        if self.stopped:
            return found
        held, self._held = self._held, ""
        self._emitted.append(held)
        return found + held

    def _emit(self, new: str) -> str:
        if not self._stop:
            self._emitted.append(new)
            return new
        text = self._held + new
        ends = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if ends:
            self.stopped = True
            self._held = ""
            certain = text[: min(ends)]
        else:
            kept = self._longest_stop_beginning(text)
            self._held = text[len(text) - kept :]
            certain = text[: len(text) - kept]
        self._emitted.append(certain)
        return certain

    def _longest_stop_beginning(self, text: str) -> int:
        """The length of the longest end of `text` that begins a stop string."""
        longest = max(map(len, self._stop)) - 1
        for length in range(min(longest, len(text)), 0, -1):
            tail = text[len(text) - length :]
            if any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0
