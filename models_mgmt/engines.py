"""The engines of one worker process: one per loaded model, started on demand, restarted after a death."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from django.conf import settings
from django.db import close_old_connections

from engine.client import EngineClient, EngineGone, EngineStartError
from engine.messages import EngineConfig, Failed, Finished, Generate, Loading, Ready, RequestEvent, Step
from models_mgmt.models import Model
from models_mgmt.presence import DeploymentReport, DeploymentState

logger = logging.getLogger(__name__)

RESTART_SECONDS = 5.0
_SPEED_WEIGHT = 0.2


class LoadError(Exception):
    """The model could not be loaded. `code` is an error code of the API."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Engine:
    """One engine process and the requests it runs; each of them gets exactly one end, also when the process dies.

    on_events gets the events of each step, in order, on the engine's reader thread, and must not block.
    """

    def __init__(
        self,
        model_id: str,
        config: EngineConfig,
        *,
        on_events: Callable[[tuple[RequestEvent, ...]], None],
        on_lost: Callable[["Engine"], None],
    ) -> None:
        self.model_id = model_id
        self.state: DeploymentState = "loading"
        self.error = LoadError("", "")
        self._on_events = on_events
        self._on_lost = on_lost
        self._client = EngineClient(config, on_step=self._step, on_exit=self._exited, on_loading=self._loading)
        self._running: set[str] = set()
        self._lock = threading.Lock()
        self._gone = False
        self._stopping = False
        self._ready: Ready | None = None
        self._progress = 0.0
        self._loaded_at: float | None = None
        self._last_step = Step(events=())
        self._speed: float | None = None

    def start(self) -> None:
        """Load the model. Raises LoadError."""
        started = time.monotonic()
        try:
            self._ready = self._client.start()
        except EngineStartError as error:
            self.fail(LoadError(error.code, error.message))
            logger.warning("model %s could not be loaded: %s", self.model_id, error.message)
            raise self.error from error
        with self._lock:
            if self._gone:
                raise self.error
            self._loaded_at = time.time()
            self._progress = 1.0
            self.state = "loaded"
        logger.info(
            "model %s loaded on %s in %.1f s, engine process %s",
            self.model_id,
            self._ready.backend,
            time.monotonic() - started,
            self._client.pid,
        )

    def fail(self, error: LoadError) -> None:
        self.error = error
        self.state = "failed"

    def submit(self, request: Generate) -> None:
        """Hand a request over. Raises EngineGone when the process has ended before it could take it."""
        with self._lock:
            if self._gone:
                raise EngineGone(f"the engine of {self.model_id} has ended")
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

    def stop(self) -> None:
        """End the process; what still runs fails."""
        self._stopping = True
        if self.state == "loading":
            self._client.kill()  # it takes no orders while it loads
        else:
            self._client.stop()

    def report(self) -> DeploymentReport:
        loaded = self.state == "loaded"
        return DeploymentReport(
            model_id=self.model_id,
            state=self.state,
            pid=self._client.pid if self.state != "failed" else None,
            ready=self._ready if loaded else None,
            progress=self._progress,
            running=self._last_step.running if loaded else 0,
            waiting=self._last_step.waiting if loaded else 0,
            in_flight=len(self._running),
            kv_used=self._last_step.kv_used if loaded else 0.0,
            error=self.error.message,
            error_code=self.error.code,
            loaded_at=self._loaded_at,
            tokens_per_second=self._speed,
        )

    def _loading(self, message: Loading) -> None:
        self._progress = message.progress

    def _step(self, step: Step) -> None:
        self._last_step = step
        ends = [event for event in step.events if isinstance(event, Finished | Failed)]
        if ends:
            with self._lock:
                self._running.difference_update(event.request_id for event in ends)
            for event in ends:
                if isinstance(event, Finished):
                    self._measure(event)
        if step.events:
            self._on_events(step.events)

    def _measure(self, end: Finished) -> None:
        if end.completion_tokens > 1 and end.decode_time > 0:
            speed = (end.completion_tokens - 1) / end.decode_time
            self._speed = speed if self._speed is None else self._speed + _SPEED_WEIGHT * (speed - self._speed)

    def _exited(self, code: int) -> None:
        why = "was stopped" if self._stopping else "ended unexpectedly"
        with self._lock:
            self._gone = True
            lost, self._running = self._running, set()
            self.fail(LoadError("INFERENCE_FAILED", f"The engine process {why}."))
        if not self._stopping:
            logger.error(
                "engine process of %s ended with code %s; %d requests fail with it", self.model_id, code, len(lost)
            )
        if lost:
            message = f"The engine process of the model {why} while it ran this request."
            self._on_events(tuple(Failed(request_id, "INFERENCE_FAILED", message) for request_id in sorted(lost)))
        if not self._stopping:
            self._on_lost(self)


class EnginePool:
    """The engines of one worker, by model id.

    on_events gets every engine's events, on that engine's reader thread. `load_row` reads a model's row.
    """

    def __init__(
        self,
        *,
        device: str,
        on_events: Callable[[tuple[RequestEvent, ...]], None],
        load_row: Callable[[str], Model] | None = None,
    ) -> None:
        self._device = device
        self._on_events = on_events
        self._load_row = load_row or _read_row
        self._lock = threading.Lock()
        self._engines: dict[str, Engine] = {}
        self._loads: dict[str, Future[Engine]] = {}
        self._closed = False

    def get(self, model_id: str) -> Engine:
        """The model's engine, loaded first if need be; callers that come at once share one load. Raises LoadError."""
        with self._lock:
            engine = self._engines.get(model_id)
            if engine is not None and engine.state == "loaded":
                return engine
            if self._closed:
                raise LoadError("BACKEND_UNAVAILABLE", "The worker is shutting down.")
            load = self._loads.get(model_id)
            mine = load is None
            if load is None:
                load = self._loads[model_id] = Future()
        if mine:
            self._load(model_id, load)
        return load.result()

    def reports(self) -> tuple[DeploymentReport, ...]:
        with self._lock:
            engines = list(self._engines.values())
        return tuple(engine.report() for engine in engines)

    def stop(self) -> None:
        """End every engine; later calls of `get` fail."""
        with self._lock:
            self._closed = True
            engines = list(self._engines.values())
        for engine in engines:
            engine.stop()

    def _load(self, model_id: str, load: "Future[Engine]") -> None:
        try:
            load.set_result(self._start(model_id))
        except LoadError as error:
            load.set_exception(error)
        except Exception:  # whatever it is, those who wait must hear of it
            logger.exception("model %s could not be loaded", model_id)
            load.set_exception(LoadError("MODEL_LOAD_FAILED", "The model could not be loaded."))
        finally:
            with self._lock:
                self._loads.pop(model_id, None)

    def _start(self, model_id: str) -> Engine:
        config = engine_config(self._load_row(model_id), device=self._device)
        engine = Engine(model_id, config, on_events=self._on_events, on_lost=self._restart)
        with self._lock:
            self._engines[model_id] = engine
        engine.start()
        if self._closed:
            engine.stop()
            raise LoadError("BACKEND_UNAVAILABLE", "The worker is shutting down.")
        return engine

    def _restart(self, engine: Engine) -> None:
        """Load the model of a dead engine again, before anybody waits for it; one that died young is left alone."""
        loaded_at = engine.report().loaded_at
        if self._closed or loaded_at is None or time.time() - loaded_at < RESTART_SECONDS:
            return
        threading.Thread(
            target=self._restart_quietly, args=(engine.model_id,), name="engine-restart", daemon=True
        ).start()

    def _restart_quietly(self, model_id: str) -> None:
        try:
            self.get(model_id)
        except LoadError as error:
            logger.warning("model %s was not loaded again: %s", model_id, error.message)


def engine_config(model: Model, *, device: str) -> EngineConfig:
    """What to start the engine of a model with. Raises LoadError."""
    if model.source_kind == "echo":
        return EngineConfig(
            model_path="",
            runner="echo",
            device=torch_device(device),
            context_length=model.context_length or None,
            max_sequences=settings.ENGINE_MAX_SEQUENCES,
            echo_delay=settings.ECHO_DELAY_SECONDS,
        )
    if not model.path:
        raise LoadError("MODEL_LOAD_FAILED", f"The files of the model {model.id} have not been prepared.")
    return EngineConfig(
        model_path=model.path,
        device=torch_device(device),
        quantization=settings.ENGINE_QUANTIZATION,
        max_sequences=settings.ENGINE_MAX_SEQUENCES,
        prefill_chunk=settings.ENGINE_PREFILL_CHUNK,
        threads=settings.ENGINE_THREADS,
    )


def torch_device(device: str) -> str:
    """`cuda0` → `cuda:0`; `cpu` and `mps` stay as they are."""
    return f"cuda:{device.removeprefix('cuda')}" if device.startswith("cuda") else device


def backend_of(device: str) -> str:
    """The API's name of a device's kind: `cuda`, `cpu` or `mps`."""
    return "cuda" if device.startswith("cuda") else device


def _read_row(model_id: str) -> Model:
    close_old_connections()
    try:
        return Model.objects.get(pk=model_id)
    except Model.DoesNotExist:
        raise LoadError("MODEL_NOT_FOUND", f"The model {model_id} is not registered.") from None
    finally:
        close_old_connections()
