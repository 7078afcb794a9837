"""Where the supervisor and its processes write: one line at a time, each with the name of who says it."""

import contextlib
import sys
import threading
from typing import TextIO


class Console:
    """Lines from several threads on one stream; a stream that went away is no reason to stop serving."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()

    def line(self, name: str, text: str) -> None:
        self._write(f"{name:<10} | {text}\n")

    def plain(self, text: str) -> None:
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
