"""One engine process with the requests it runs."""

import logging
import threading
import time
from collections.abc import Callable

from common import metric_catalogue as counted
from common.byte_sizes import format_bytes
from common.errors import ApiError, InferenceFailed, from_code
from engine.client import EngineClient, EngineGone, EngineStartError
from engine.messages import EngineConfig, Failed, Finished, Generate, Loading, Ready, RequestEvent, Step
from models_mgmt.device_memory import bytes_taken, gpu_bytes_freed, gpu_bytes_used, process_bytes
from models_mgmt.presence import DeploymentReport, DeploymentState

logger = logging.getLogger(__name__)

_SPEED_WEIGHT = 0.2


class EngineClosed(EngineGone):
    """The engine takes no more requests, since it is being unloaded; another may be loaded after it."""


def memory_details(needed: int, free: int) -> dict[str, str | int]:
    """What an INSUFFICIENT_MEMORY tells of sizes."""
    return {
        "needed": format_bytes(needed),
        "needed_bytes": needed,
        "free": format_bytes(free),
        "free_bytes": free,
    }


class Engine:
    """One engine process; each request that it takes gets exactly one end, also when the process dies.

    on_events gets the events of each step, in order, on the engine's reader thread, and must not block. on_lost hears
    of a process that ended although nobody told it to, after its requests have failed.
    """

    def __init__(
        self,
        model_id: str,
        config: EngineConfig,
        *,
        on_events: Callable[[tuple[RequestEvent, ...]], None],
        on_lost: Callable[["Engine"], None],
        on_progress: Callable[[float, str], None],
    ) -> None:
        self.model_id = model_id
        self.config = config
        self.state: DeploymentState = "loading"
        self.error: ApiError | None = None
        self._on_events = on_events
        self._on_lost = on_lost
        self._on_progress = on_progress
        self._client = EngineClient(config, on_step=self._step, on_exit=self._exited, on_loading=self._loading)
        self._running: set[str] = set()
        self._lock = threading.Lock()
        self._drained = threading.Condition(self._lock)
        self._gone = False
        self._closed = False
        self._stopping = False
        self._ready: Ready | None = None
        self._loaded_at: float | None = None
        self._loaded_since = time.monotonic()
        self._used_since = time.monotonic()
        self._heard_since = time.monotonic()
        self._last_step = Step(events=())
        self._speed: float | None = None

    # ------------------------------------------------------------ its life

    def start(self, seconds: float) -> Ready:
        """Load the model, for so many seconds at most. Raises ApiError."""
        try:
            self._ready = self._client.start(seconds)
        except EngineStartError as error:
            details = memory_details(error.needed_bytes, error.free_bytes) if error.needed_bytes else {}
            raise self._fail(from_code(error.code, error.message, details)) from error
        with self._lock:
            if self._gone:
                raise self.error or InferenceFailed("The engine process ended.")
            self._loaded_at = time.time()
            self._loaded_since = self._used_since = time.monotonic()
            self.state = "loaded"
        return self._ready

    def close(self, *, only_if_idle_for: float | None = None) -> bool:
        """Take no more requests. With `only_if_idle_for`, only if none has run for so many seconds; else False."""
        with self._lock:
            if only_if_idle_for is not None and (self._running or self._idle_seconds() < only_if_idle_for):
                return False
            self._closed = True
            if self.state == "loaded":
                self.state = "unloading"
            return True

    def wait_drained(self, seconds: float) -> bool:
        """Wait until nothing runs any more; False when something still does."""
        with self._drained:
            return self._drained.wait_for(lambda: not self._running, seconds)

    def fail_running(self, message: str) -> None:
        """End what runs with an error, at once."""
        with self._drained:
            lost, self._running = self._running, set()
            self._drained.notify_all()
        if lost:
            self._on_events(tuple(Failed(request_id, "INFERENCE_FAILED", message) for request_id in sorted(lost)))

    def stop(self) -> int:
        """End the process; what still runs fails. Returns the bytes that this has freed, measured."""
        self._stopping = True
        pid, devices = self._client.pid, self._gpus
        if pid is None or not self._client.alive:
            return 0
        before = gpu_bytes_used(devices) if devices else process_bytes(pid)
        if self.state == "loading":
            self._client.kill()  # it takes no orders while it loads
        else:
            self._client.stop()
        return gpu_bytes_freed(devices, before) if devices else before - process_bytes(pid)

    def kill_if_stalled(self, seconds: float) -> None:
        """End a process that has requests and has given no sign of life for so long; they fail, and it is lost."""
        with self._lock:
            silent = time.monotonic() - self._heard_since
            if not self._running or self._gone or silent < seconds:
                return
        logger.error("the engine of %s has not answered for %.0f s; it is killed", self.model_id, silent)
        self._client.kill()

    # ------------------------------------------------------------ requests

    def submit(self, request: Generate) -> None:
        """Hand a request over. Raises EngineClosed while it is unloaded, EngineGone when the process has ended."""
        with self._lock:
            if self._gone:
                raise EngineGone(f"the engine of {self.model_id} has ended")
            if self._closed:
                raise EngineClosed(f"the engine of {self.model_id} takes no more requests")
            if not self._running:
                self._heard_since = time.monotonic()
            self._running.add(request.request_id)
        try:
            self._client.submit(request)
        except EngineGone:
            with self._lock:
                if request.request_id not in self._running:
                    return  # its end has been told already
                self._running.discard(request.request_id)
            raise

    def abort(self, request_id: str) -> None:
        """Ask for the end of a request; unknown ids are ignored."""
        self._client.abort(request_id)

    # ------------------------------------------------------------ what is known of it

    @property
    def lived_seconds(self) -> float:
        """How long it has been loaded."""
        return 0.0 if self._loaded_at is None else time.monotonic() - self._loaded_since

    @property
    def memory_bytes(self) -> int:
        return self._ready.memory_bytes if self._ready else 0

    def bytes_by_device(self) -> dict[str, int]:
        """What it holds of each device: measured from outside while it loads, then what it measured itself."""
        pid = self._client.pid
        if pid is None or self.state == "failed":
            return {}
        if self._ready is not None:
            told = {name.replace(":", ""): size for name, size in self._ready.device_bytes.items()}
            return told or {self._devices[0]: self._ready.memory_bytes}
        return {device: bytes_taken(device, pid) for device in set(self._devices)}

    def report(self, progress: float = 0.0, stage: str = "") -> DeploymentReport:
        loaded = self.state in {"loaded", "unloading"}
        return DeploymentReport(
            model_id=self.model_id,
            state=self.state,
            pid=self._client.pid if self.state != "failed" else None,
            ready=self._ready if loaded else None,
            progress=1.0 if loaded else progress,
            stage="" if loaded else stage,
            running=self._last_step.running if loaded else 0,
            waiting=self._last_step.waiting if loaded else 0,
            in_flight=len(self._running),
            idle_seconds=self._idle_seconds() if loaded else 0.0,
            kv_used=self._last_step.kv_used if loaded else 0.0,
            error=self.error.message if self.error else "",
            error_code=self.error.code if self.error else "",
            loaded_at=self._loaded_at,
            tokens_per_second=self._speed,
            device_bytes=self.bytes_by_device(),
        )

    @property
    def _devices(self) -> tuple[str, ...]:
        return tuple(name.replace(":", "") for name in self.config.devices or (self.config.device,))

    @property
    def _gpus(self) -> tuple[str, ...]:
        return tuple(name for name in self._devices if name.startswith("cuda"))

    def _idle_seconds(self) -> float:
        return 0.0 if self._running else time.monotonic() - self._used_since

    # ------------------------------------------------------------ what the process tells

    def _loading(self, message: Loading) -> None:
        self._on_progress(message.progress, message.stage)

    def _step(self, step: Step) -> None:
        self._last_step = step
        self._heard_since = time.monotonic()
        ends = [event for event in step.events if isinstance(event, Finished | Failed)]
        if ends:
            with self._drained:
                self._running.difference_update(event.request_id for event in ends)
                self._used_since = time.monotonic()
                if not self._running:
                    self._drained.notify_all()
            for event in ends:
                if isinstance(event, Finished):
                    self._measure(event)
        if step.events:
            self._on_events(step.events)
        if (figures := step.figures) is not None:
            counted.TOKEN_GAP_SECONDS.merge(self.model_id, counts=figures.gaps, total=figures.gap_seconds)
            counted.BATCH_SIZE.merge(self.model_id, counts=figures.batches, total=figures.sequences)

    def _measure(self, end: Finished) -> None:
        if end.completion_tokens > 1 and end.decode_time > 0:
            speed = (end.completion_tokens - 1) / end.decode_time
            self._speed = speed if self._speed is None else self._speed + _SPEED_WEIGHT * (speed - self._speed)

    def _fail(self, error: ApiError) -> ApiError:
        self.error = error
        self.state = "failed"
        return error

    def _exited(self, code: int) -> None:
        why = "was stopped" if self._stopping else "ended unexpectedly"
        with self._drained:
            self._gone = True
            lost, self._running = self._running, set()
            self._fail(InferenceFailed(f"The engine process {why}."))
            self._drained.notify_all()
        if not self._stopping:
            logger.error(
                "engine process of %s ended with code %s; %d requests fail with it", self.model_id, code, len(lost)
            )
        if lost:
            message = f"The engine process of the model {why} while it ran this request."
            self._on_events(tuple(Failed(request_id, "INFERENCE_FAILED", message) for request_id in sorted(lost)))
        if not self._stopping:
            self._on_lost(self)
