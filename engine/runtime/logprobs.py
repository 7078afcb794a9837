"""The log probabilities of a completion's tokens, sent along with the text that the tokens have become."""

from engine.messages import TokenLogprob


class LogprobLog:
    """Keeps each token's entry until its text is sent: what may turn out to be a stop string has not been said."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, TokenLogprob]] = []  # with the byte that the token begins at
        self._made = 0
        self._sent = 0

    def add(self, entry: TokenLogprob) -> None:
        self._entries.append((self._made, entry))
        self._made += len(entry.token)

    def release(self, text: str) -> tuple[TokenLogprob, ...]:
        """The entries of the tokens that this next piece of text comes from."""
        self._sent += len(text.encode())
        count = sum(begin < self._sent for begin, _ in self._entries)
        released, self._entries = self._entries[:count], self._entries[count:]
        return tuple(entry for _, entry in released)

    def release_all(self) -> tuple[TokenLogprob, ...]:
        released, self._entries = self._entries, []
        return tuple(entry for _, entry in released)
