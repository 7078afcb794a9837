"""A small in-process cache for look-ups that may be a moment old."""

import time
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ShortMemory(Generic[K, V]):
    """Remembers values for `seconds`, at most `size` of them. Safe under threads: each step is one dict operation."""

    def __init__(self, *, seconds: float, size: int) -> None:
        self._seconds = seconds
        self._size = size
        self._entries: dict[K, tuple[float, V]] = {}

    def recall(self, key: K) -> V | None:
        """The value, unless it is too old or was never kept."""
        entry = self._entries.get(key)
        return entry[1] if entry and entry[0] > time.monotonic() else None

    def keep(self, key: K, value: V, *, seconds: float | None = None) -> None:
        """`seconds` shortens the usual time, never lengthens it."""
        if len(self._entries) >= self._size:
            self._entries.clear()
        lifetime = self._seconds if seconds is None else min(seconds, self._seconds)
        self._entries[key] = (time.monotonic() + lifetime, value)

    def clear(self) -> None:
        self._entries.clear()
