"""Django's ASGI handler on threads that stay, with database connections that stay.

Django itself gives every request a thread of its own for its synchronous parts, the ORM among them, and so a new
database connection. Starting both costs more than answering.
"""

from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_started
from django.db import close_old_connections, connections, reset_queries

T = TypeVar("T")
THREADS = 8
CONNECTION_MAX_AGE_SECONDS = 60


class RequestThread(ThreadPoolExecutor):
    """One thread that runs the synchronous parts of some of the requests, one part after the other."""

    def __init__(self, number: int) -> None:
        super().__init__(max_workers=1, thread_name_prefix=f"request-{number}")
        self.context = ThreadSensitiveContext()
        SyncToAsync.context_to_thread_executor[self.context] = self
        # Two counters, since each is written by one thread only.
        self._submitted = 0
        self._ended = 0

    @property
    def pending(self) -> int:
        return self._submitted - self._ended

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        self._submitted += 1
        return super().submit(self._run, fn, *args, **kwargs)

    def _run(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Run it, and let go of a database connection that has failed or grown old."""
        try:
            return fn(*args, **kwargs)
        finally:
            self._ended += 1
            close_old_connections()


class SiteHandler(ASGIHandler):
    """Runs all synchronous parts of a request on the thread that had the least to do when it came.

    A task that outlives its request keeps that thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._threads = [RequestThread(number) for number in range(THREADS)]
        # The threads look after their connections themselves; for Django to do it, each request would change threads.
        request_started.disconnect(close_old_connections)
        request_started.disconnect(reset_queries)
        for configuration in connections.settings.values():
            configuration["CONN_MAX_AGE"] = CONNECTION_MAX_AGE_SECONDS
            configuration["CONN_HEALTH_CHECKS"] = True

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        self.take_thread()
        await self.handle(scope, receive, send)

    def take_thread(self) -> None:
        """Have the running task's synchronous parts run on the thread that has the least to do now."""
        thread = min(self._threads, key=lambda candidate: candidate.pending)
        SyncToAsync.thread_sensitive_context.set(thread.context)
