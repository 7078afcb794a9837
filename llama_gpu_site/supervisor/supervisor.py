"""Brings a server up, keeps it up, and takes it down."""

import os
import queue
import signal
import threading
import time
from dataclasses import dataclass
from types import FrameType

import psutil
from django.conf import settings

from llama_gpu_site.supervisor.child import Child
from llama_gpu_site.supervisor.console import Console
from llama_gpu_site.supervisor.failure import StartError
from llama_gpu_site.supervisor.leash import Leash
from llama_gpu_site.supervisor.preparation import Plan, prepare
from llama_gpu_site.supervisor.readiness import Answer, attempt_generation, wait_for_generation
from llama_gpu_site.supervisor.welcome import display_url, reachable_url, welcome

# Beyond what a worker gives its running requests.
STOP_SECONDS = 3.0
KILL_SECONDS = 3.0
# A process that ends so often before the first generation worked ends the start.
STARTS_BEFORE_READY = 4


@dataclass(frozen=True)
class Signalled:
    """SIGINT, SIGTERM or SIGHUP came."""


@dataclass(frozen=True)
class Changed:
    """A process was started, or ended unasked."""

    child: Child


@dataclass(frozen=True)
class Probed:
    """The wait for the first generation is over: an answer, or why there will be none."""

    answer: Answer | None
    failure: StartError | None = None


class Interrupted(KeyboardInterrupt):
    """A signal came before there was any process to end."""


class Supervisor:
    """One start of the server."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # SimpleQueue.put may be called from a signal handler.
        self._inbox: queue.SimpleQueue[Signalled | Changed | Probed] = queue.SimpleQueue()
        self._children: list[Child] = []
        self._given_up = threading.Event()
        self._is_ready = False
        self._impatient = False
        self._began = time.monotonic()

    def run(self) -> int:
        """Serve until a signal comes. Returns the exit status; raises StartError if there was nothing to take down."""
        _on_signals(_interrupt)
        try:
            plan = prepare(self._console)
        except Interrupted:
            self._say("stopped")
            return 130
        _on_signals(self._on_signal)
        leash = Leash(keep_open=[plan.lock.fileno()])
        try:
            self._start(plan, leash)
            return self._serve(plan)
        finally:
            self._stop(leash)
            plan.close()

    # ------------------------------------------------------------ up

    def _start(self, plan: Plan, leash: Leash) -> None:
        self._children = [
            Child(spec, console=self._console, leash=leash, on_change=lambda child: self._inbox.put(Changed(child)))
            for spec in plan.specs
        ]
        self._say(f"starting {', '.join(child.spec.name for child in self._children)}")
        for child in self._children:
            child.start()
        arguments = (reachable_url(settings.HOST, settings.PORT), plan.access_token)
        threading.Thread(target=self._probe, args=arguments, name="readiness", daemon=True).start()

    def _probe(self, url: str, token: str) -> None:
        try:
            answer = wait_for_generation(lambda: attempt_generation(url, token), say=self._say, given_up=self._given_up)
            self._inbox.put(Probed(answer))
        except StartError as error:
            self._inbox.put(Probed(None, error))

    def _serve(self, plan: Plan) -> int:
        while True:
            match self._inbox.get():
                case Signalled():
                    return 0
                case Changed(child):
                    self._write_instance(plan)
                    if not self._is_ready and child.backoff.failures >= STARTS_BEFORE_READY:
                        self._say(f"{child.spec.name} does not start; the lines above tell why")
                        return 1
                case Probed(answer, failure):
                    if failure is not None:
                        self._say(str(failure))
                        return 1
                    if answer is not None:
                        self._is_ready = True
                        self._write_instance(plan)
                        seconds = time.monotonic() - self._began
                        url = display_url(settings.HOST, settings.PORT)
                        self._console.plain(welcome(url, plan.model_id, plan.credentials, answer, seconds=seconds))

    def _write_instance(self, plan: Plan) -> None:
        plan.instance.write(
            {
                "pid": os.getpid(),
                "url": reachable_url(settings.HOST, settings.PORT),
                "redis_url": plan.redis_url,
                "model": plan.model_id,
                "ready": self._is_ready,
                "processes": {child.spec.name: child.pid for child in self._children},
            }
        )

    # ------------------------------------------------------------ down

    def _stop(self, leash: Leash) -> None:
        """End every process and their processes; a second signal ends them at once."""
        self._given_up.set()
        self._say("stopping")
        family = descendants(besides=leash.pid)
        for group in ([c for c in self._children if not c.spec.last], [c for c in self._children if c.spec.last]):
            for child in group:
                child.stop()
            if not self._wait(group, settings.DRAIN_SECONDS + STOP_SECONDS):
                for child in group:
                    child.kill()
                for child in group:
                    child.wait(KILL_SECONDS)
        _, left = psutil.wait_procs(family, timeout=0 if self._signalled_again() else KILL_SECONDS)
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        leash.close()
        self._say("stopped")

    def _wait(self, group: list[Child], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not all(child.wait(0) for child in group):
            if time.monotonic() > deadline or self._signalled_again():
                return False
            time.sleep(0.02)
        return True

    def _signalled_again(self) -> bool:
        while not self._impatient:
            try:
                self._impatient = isinstance(self._inbox.get_nowait(), Signalled)
            except queue.Empty:
                return False
        return True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._inbox.put(Signalled())

    def _say(self, text: str) -> None:
        self._console.line("up", text)


def descendants(besides: int) -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if process.pid != besides]


def _on_signals(handler: "signal._HANDLER") -> None:
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as `nohup` wants it
        signal.signal(signal.SIGHUP, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted
