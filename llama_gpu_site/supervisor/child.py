"""Keeps one process running: started again when it ends, ever later if it keeps ending."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from llama_gpu_site.supervisor.console import Console
from llama_gpu_site.supervisor.leash import Leash


@dataclass(frozen=True)
class ChildSpec:
    """How a process is started. `last` ones are stopped after all the others. Lines with a text
    of `unshown` in them are kept from the console."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    pass_fds: tuple[int, ...] = ()
    last: bool = False
    unshown: tuple[str, ...] = ()


@dataclass
class Backoff:
    """Seconds to wait before the next start: doubled each time, from `first` up to `longest`, and back to `first`
    once the process has run for `stable` seconds."""

    first: float = 0.5
    longest: float = 30.0
    stable: float = 60.0
    failures: int = 0

    def after(self, lived: float) -> float:
        """The wait after a process that lived so long."""
        if lived >= self.stable:
            self.failures = 0
        self.failures += 1
        return float(min(self.longest, self.first * 2 ** min(self.failures - 1, 30)))


class Child:
    """A supervised process, alone in its session and process group."""

    def __init__(
        self,
        spec: ChildSpec,
        *,
        console: Console,
        leash: Leash,
        on_change: Callable[["Child"], None],
        backoff: Backoff | None = None,
    ) -> None:
        """`on_change` is called, on a thread of the child's, after every start and every unwanted end."""
        self.spec = spec
        self.backoff = backoff or Backoff()
        self._console = console
        self._leash = leash
        self._on_change = on_change
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"child-{spec.name}", daemon=True)

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process and process.returncode is None else None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the process to end; it is not started again."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process and its group at once."""
        self._end(signal.SIGKILL)

    def wait(self, timeout: float) -> bool:
        """Whether the process has ended and its output is read."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    def _end(self, number: signal.Signals) -> None:
        self._stopping.set()
        with self._starting, contextlib.suppress(ProcessLookupError, PermissionError):
            if (pid := self.pid) is not None:
                if number == signal.SIGKILL:
                    os.killpg(pid, number)
                else:
                    os.kill(pid, number)

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            how = self._run_once()
            if how is None or self._stopping.is_set():
                return
            wait = self.backoff.after(time.monotonic() - began)
            self._console.line("up", f"{self.spec.name} ended ({how}); starting it again in {wait:g} s")
            self._on_change(self)
            if self._stopping.wait(wait):
                return

    def _run_once(self) -> str | None:
        """Start the process and wait for its end; says how it ended, or None if it was not to be started."""
        with self._starting:
            if self._stopping.is_set():
                return None
            try:
                self._process = process = subprocess.Popen(
                    self.spec.command,
                    env=dict(self.spec.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=self.spec.pass_fds,
                    start_new_session=True,
                )
            except OSError as error:
                return f"it could not be started: {error.strerror or error}"
            self._leash.hold(process.pid)
        self._on_change(self)
        reader = threading.Thread(target=self._forward, args=(process,), name=f"log-{self.spec.name}", daemon=True)
        reader.start()
        code = process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what it may have left behind in its group
        self._leash.release(process.pid)
        reader.join(1.0)  # an engine process may hold the pipe a moment longer than its worker
        return describe_exit(code)

    def _forward(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            return
        with process.stdout as output:
            for line in output:
                text = line.decode(errors="replace").rstrip()
                if text and not any(part in text for part in self.spec.unshown):
                    self._console.line(self.spec.name, text)


def describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
