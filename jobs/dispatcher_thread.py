"""The dispatcher beside the scheduler's other work: a thread with an event loop of its own."""

import asyncio
import logging
import threading

from jobs.dispatcher import Dispatcher, run_dispatcher

logger = logging.getLogger(__name__)
_STOP_SECONDS = 5.0


class DispatcherThread:
    def __init__(self) -> None:
        self._running: tuple[Dispatcher, asyncio.AbstractEventLoop] | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Give back what is in work, then end."""
        self._ready.wait(_STOP_SECONDS)
        if self._running is not None:
            dispatcher, loop = self._running
            loop.call_soon_threadsafe(dispatcher.stop)
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        try:
            run_dispatcher(self._started)
        except Exception:
            logger.exception("the dispatcher of jobs has ended")
        finally:
            self._ready.set()

    def _started(self, dispatcher: Dispatcher, loop: asyncio.AbstractEventLoop) -> None:
        self._running = (dispatcher, loop)
        self._ready.set()
