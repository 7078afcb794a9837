"""A progress bar on a terminal, plain lines elsewhere."""

import sys
from typing import TextIO

_WIDTH = 30
_STEP = 0.1


class ProgressBar:
    """Shows a stage and how far it is. In a file or a pipe, a line for every tenth."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._stage = ""
        self._told = -1.0

    def __call__(self, stage: str, share: float) -> None:
        if stage != self._stage:
            self._end_line()
            self._stage, self._told = stage, -1.0
        if self._is_terminal:
            filled = round(share * _WIDTH)
            self._write(f"\r{stage:<10} [{'#' * filled}{'.' * (_WIDTH - filled)}] {share:4.0%}")
        elif share >= self._told + _STEP or (share >= 1.0 > self._told):
            self._write(f"{stage} {share:.0%}\n")
        else:
            return
        self._told = share

    def close(self) -> None:
        self._end_line()
        self._stage = ""

    def _end_line(self) -> None:
        if self._is_terminal and self._stage:
            self._write("\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
