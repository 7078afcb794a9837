"""Calls what may never return.

Python can't stop a thread. So foreign code is called in another one than that which waits for it; if it takes too long,
its thread is left to it, and whoever waits goes on. Threads are made as they are needed, and used again.
"""

import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_MAX_IDLE = 32


class Overdue(Exception):
    """A call has not returned in time; it may go on all the same."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it did not return within {seconds:g} s")


def _nothing() -> None:
    """For callers that need not know."""


class _Call:
    """One call: its result or error goes to whoever waits, or nowhere, once nobody does."""

    def __init__(self, work: Callable[[], Any], left: Callable[[], object], late: Callable[[], object]) -> None:
        self._work = work
        self._left = left
        self._late = late
        self._context = contextvars.copy_context()
        self._done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_left = False

    def run(self) -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = self._context.run(self._work)
        except BaseException as raised:  # noqa: BLE001  # told to whoever waits
            error = raised
        with self._lock:
            self._done.put((result, error))
            was_left = self._is_left
        if was_left:
            self._late()

    def wait(self, seconds: float) -> Any:
        try:
            result, error = self._done.get(timeout=seconds)
        except queue.Empty:
            with self._lock:
                if self._done.empty():
                    self._is_left = True
                    self._left()
                    raise Overdue(seconds) from None
            result, error = self._done.get()
        if error is not None:
            raise error
        return result


class Hands:
    """The threads that do the calls. `idle` ones wait for the next, a few of them at most."""

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[_Call]] = []  # its methods are atomic

    def call(
        self,
        work: Callable[[], T],
        *,
        seconds: float,
        left: Callable[[], object] = _nothing,
        late: Callable[[], object] = _nothing,
    ) -> T:
        """What `work` returns or raises. `left` is called when it takes too long, `late` if it then returns after all.

        Raises Overdue.
        """
        call = _Call(work, left, late)
        try:
            self._idle.pop().put(call)
        except IndexError:
            threading.Thread(target=self._run, args=(call,), name="plugin-call", daemon=True).start()
        result: T = call.wait(seconds)
        return result

    def _run(self, call: _Call) -> None:
        inbox: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        while True:
            call.run()
            if len(self._idle) >= _MAX_IDLE:
                return
            del call  # what it holds may be a plugin that is to go
            self._idle.append(inbox)
            call = inbox.get()


HANDS = Hands()
