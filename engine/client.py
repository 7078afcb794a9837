"""Starts an engine process and talks to it; the worker's side of `engine.messages`."""

import contextlib
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import msgspec

from engine.framing import FrameReceiver, FrameSender
from engine.messages import (
    Abort,
    Command,
    EngineConfig,
    EngineMessage,
    Generate,
    LoadFailed,
    Loading,
    Ready,
    Shutdown,
    Step,
)

logger = logging.getLogger(__name__)


class EngineStartError(Exception):
    """The engine did not become ready. `code` is an error code of the API.

    `needed_bytes` and `free_bytes` are known for INSUFFICIENT_MEMORY.
    """

    def __init__(self, code: str, message: str, *, needed_bytes: int = 0, free_bytes: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class EngineGone(Exception):
    """The engine process has ended; the request was not delivered."""


class EngineClient:
    """One engine process.

    on_step gets each Step, in order, on the client's reader thread, and must not block for long.
    on_exit is called once, on the same thread, with the exit code, after the last Step; not when `start` failed.
    on_loading gets the Loading messages while `start` waits.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        on_step: Callable[[Step], None],
        on_exit: Callable[[int], None],
        on_loading: Callable[[Loading], None] | None = None,
    ) -> None:
        self.config = config
        self.ready: Ready | None = None
        self._on_step = on_step
        self._on_exit = on_exit
        self._on_loading = on_loading
        self._process: subprocess.Popen[bytes] | None = None
        self._sender: FrameSender | None = None
        self._started: queue.SimpleQueue[Ready | LoadFailed | None] = queue.SimpleQueue()
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 600.0) -> Ready:
        """Start the process and wait until the model is loaded.

        Raises EngineStartError with MODEL_LOAD_FAILED, INSUFFICIENT_MEMORY or BACKEND_UNAVAILABLE.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engine.runtime", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=self._environment(),
                start_new_session=True,
            )
        self._sender = FrameSender(ours)
        self._reader = threading.Thread(target=self._read, args=(ours,), name=f"engine-{self.pid}", daemon=True)
        try:
            self._sender.send(self.config)
        except OSError:
            logger.warning("engine process %s ended before it took its configuration", self.pid)
        self._reader.start()
        try:
            outcome = self._started.get(timeout=timeout)
        except queue.Empty:
            self.kill()
            raise EngineStartError("MODEL_LOAD_FAILED", f"the model was not ready after {timeout:.0f} s") from None
        if isinstance(outcome, Ready):
            return outcome
        self.kill()
        if outcome is None:
            raise EngineStartError("MODEL_LOAD_FAILED", "the engine process ended while it loaded the model")
        raise EngineStartError(
            outcome.code, outcome.message, needed_bytes=outcome.needed_bytes, free_bytes=outcome.free_bytes
        )

    def submit(self, request: Generate) -> None:
        """Hand a request to the engine. Raises EngineGone."""
        self._send(request)

    def abort(self, request_id: str) -> None:
        """Ask for the end of a request; unknown ids are ignored. Never raises."""
        with contextlib.suppress(EngineGone):
            self._send(Abort(request_id))

    def stop(self, timeout: float = 10.0) -> None:
        """End the process, kindly first, and wait for it."""
        with contextlib.suppress(EngineGone):
            self._send(Shutdown())
        if self._process is not None:
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(timeout)

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _send(self, message: Command) -> None:
        if self._sender is None:
            raise EngineGone("the engine was not started")
        try:
            self._sender.send(message)
        except OSError as error:
            raise EngineGone("the engine process has ended") from error

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ, PYTHONUNBUFFERED="1", TOKENIZERS_PARALLELISM="false")
        if self.config.threads:
            environment["OMP_NUM_THREADS"] = str(self.config.threads)
        return environment

    def _read(self, sock: socket.socket) -> None:
        receiver: FrameReceiver[EngineMessage] = FrameReceiver(sock, EngineMessage)
        try:
            while (message := receiver.receive()) is not None:
                self._dispatch(message)
        except (msgspec.DecodeError, ValueError):
            logger.exception("engine process %s sent a frame that can't be read", self.pid)
            self.kill()
        finally:
            sock.close()
            self._ended()

    def _dispatch(self, message: EngineMessage) -> None:
        match message:
            case Step():
                self._on_step(message)
            case Loading():
                if self._on_loading:
                    self._on_loading(message)
            case Ready():
                self.ready = message
                self._started.put(message)
            case LoadFailed():
                self._started.put(message)

    def _ended(self) -> None:
        code = self._process.wait() if self._process else -1
        if self.ready is None:
            self._started.put(None)
        else:
            logger.info("engine process %s ended with code %s", self.pid, code)
            self._on_exit(code)
