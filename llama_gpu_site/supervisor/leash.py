"""Ends the supervisor's process groups when the supervisor is gone, however it went.

Run as a program of its own: `python leash.py`. Standard input brings lines `+PGID` and `-PGID`; its end means that the
supervisor has ended, and then every group still named is ended too, kindly first. It runs in a session of its own and
knows nothing but the standard library, so that it works the same on Linux and macOS.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable

GRACE_SECONDS = 3.0


class Leash:
    """The supervisor's side: names the process groups that must not outlive it."""

    def __init__(self, keep_open: Iterable[int] = ()) -> None:
        """`keep_open`: descriptors, such as a lock's, that the leash holds until its work is done."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            start_new_session=True,
            pass_fds=tuple(keep_open),
        )
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def hold(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def release(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Call when every group has ended."""
        with self._lock, contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._process.stdin:
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()


def follow(lines: Iterable[str]) -> set[int]:
    """The groups still held when the lines end."""
    groups: set[int] = set()
    for line in lines:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    return groups


def end_groups(groups: set[int], grace: float = GRACE_SECONDS) -> None:
    """SIGTERM, then SIGKILL for what is left after `grace` seconds."""
    _signal_all(groups, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and _signal_all(groups, 0):
        time.sleep(0.05)
    _signal_all(groups, signal.SIGKILL)


def _signal_all(groups: set[int], number: int) -> bool:
    """Whether any of the groups was there to take it."""
    reached = False
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
            reached = True
    return reached


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_groups(follow(sys.stdin))
