"""One request as its web process sees it: a bounded queue of events with exactly one end."""

import asyncio
from collections import deque
from collections.abc import Callable

from common.errors import ApiError, from_code
from engine.messages import Accepted, Delta, Failed, Finished, RequestEvent

Event = Delta | Finished | Failed


class Call:
    """Takes a request's events from the gateway's reader and hands them to the one coroutine that waits for them.

    `worker_id` is the worker it was sent to, then the one that accepted it. Times are those of the event loop;
    `door_time`: seconds from the request's arrival until its submission.
    `shortcut` is offered each delta that would wake the coroutine, and says whether it took it instead.
    """

    __slots__ = (
        "_loop",
        "_pending",
        "_waiter",
        "accepted_at",
        "backend",
        "door_time",
        "ended",
        "job_id",
        "limit",
        "model_id",
        "prompt_tokens",
        "queue",
        "request_id",
        "shortcut",
        "submitted_at",
        "timer",
        "worker_id",
    )

    def __init__(self, request_id: str, *, job_id: str, model_id: str, queue: str, worker_id: str, limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._pending: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.request_id = request_id
        self.job_id = job_id
        self.model_id = model_id
        self.queue = queue
        self.worker_id = worker_id
        self.limit = limit
        self.backend = ""
        self.door_time = 0.0
        self.prompt_tokens = 0
        self.submitted_at = self._loop.time()
        self.accepted_at: float | None = None
        self.ended = False
        self.shortcut: Callable[[Delta], bool] | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def accept_time(self) -> float:
        """Seconds from submission until an engine accepted the request."""
        return (self.accepted_at or self.submitted_at) - self.submitted_at

    @property
    def is_full(self) -> bool:
        """Whether the reader is so far behind that the request should be dropped."""
        return len(self._pending) >= self.limit

    def deliver(self, event: RequestEvent) -> None:
        """Queue an event; whatever comes after the end is ignored."""
        if self.ended:
            return
        waiter = self._waiter if self._waiter is not None and not self._waiter.done() else None
        if isinstance(event, Delta):
            if self.shortcut is not None and waiter is not None and self.shortcut(event):
                return
            self._pending.append(event)
        elif isinstance(event, Accepted):
            self.accepted_at = self._loop.time()
            self.prompt_tokens = event.prompt_tokens
        else:
            self._pending.append(event)
            self.ended = True
            if isinstance(event, Finished) and self.accepted_at is not None:
                # An engine's step that accepts and runs a request tells both at its end.
                accepted_at = max(self.submitted_at, self._loop.time() - event.engine_time)
                self.accepted_at = min(self.accepted_at, accepted_at)
            if self.timer is not None:
                self.timer.cancel()
        if waiter is not None:
            waiter.set_result(None)

    def fail(self, error: ApiError, *, drop: bool = False) -> None:
        """End with an error of our own; `drop` forgets what was not read yet."""
        if drop:
            self._pending.clear()
        self.deliver(Failed(self.request_id, error.code, error.message, error.details))

    async def accepted(self, seconds: float | None = None) -> None:
        """Wait until an engine has taken the request, for so long at most. Raises ApiError when it was refused."""
        deadline = None if seconds is None else self._loop.time() + seconds
        while self.accepted_at is None and not self.ended:
            left = None if deadline is None else deadline - self._loop.time()
            if left is not None and left <= 0:
                return
            await self._wait(left)
        if self._pending and isinstance(first := self._pending[0], Failed):
            raise error_of(first)

    async def drain(self, seconds: float | None = None) -> list[Event]:
        """Everything that has come in, after waiting for something; empty when nothing came within `seconds`."""
        if not self._pending:
            await self._wait(seconds)
        events = list(self._pending)
        self._pending.clear()
        return events

    async def result(self) -> Finished:
        """Wait for the end. Raises ApiError."""
        while True:
            for event in await self.drain():
                if isinstance(event, Finished):
                    return event
                if isinstance(event, Failed):
                    raise error_of(event)

    async def _wait(self, seconds: float | None) -> None:
        raise_swallowed_cancellation()
        waiter = self._waiter = self._loop.create_future()
        timer = None if seconds is None else self._loop.call_later(seconds, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()


def raise_swallowed_cancellation() -> None:
    """Raise the CancelledError that somebody below us has lost.

    Until Python 3.12 asyncio.wait_for, and redis-py through it, forgets a cancellation that comes with the result; the
    task of a client that has left would go on. The task itself remembers.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def error_of(event: Failed) -> ApiError:
    """The API's error for a request's bad end."""
    return from_code(event.code, event.message, event.details)


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
