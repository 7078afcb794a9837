"""The engines of one worker process, one per model: loaded once for all who ask, unloaded, restarted after a death."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from django.conf import settings

from common.errors import UNLOADED, ApiError, BackendUnavailable, ModelLoadFailed
from engine.messages import EngineConfig, Ready, RequestEvent
from models_mgmt.engines import Engine
from models_mgmt.presence import DeploymentReport

logger = logging.getLogger(__name__)

Say = Callable[[float, str], None]  # progress from 0 to 1, stage

_WATCH_SECONDS = 1.0
# An engine that lived shorter than this is started again only after a pause, which doubles each time.
_YOUNG_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 1.0
_LAST_PAUSE_SECONDS = 60.0
# The engine's own progress follows after what was prepared, if anything was.
_PREPARED_SHARE = 0.5


class PoolOwner(Protocol):
    """Who decides what is loaded, and hears how it went. Called on the threads that load."""

    def prepare(self, model_id: str, say: Say) -> EngineConfig:
        """See to everything that an engine needs before it starts. Raises ApiError."""

    def progressed(self, model_id: str, progress: float, stage: str) -> None: ...

    def loaded(self, model_id: str, ready: Ready, seconds: float) -> None: ...

    def failed(self, model_id: str, error: ApiError) -> None: ...

    def lost(self, model_id: str, error: ApiError) -> None:
        """An engine has died. It will be started again."""


@dataclass
class _Load:
    """A load under way, which everybody who wants the model waits for."""

    outcome: "Future[Engine]" = field(default_factory=Future)
    progress: float = 0.0
    stage: str = "wait"
    cancelled: bool = False


@dataclass
class _Slot:
    """One model. `work` is held by the one load or unload that goes on, so that they follow one another."""

    work: threading.Lock = field(default_factory=threading.Lock)
    engine: Engine | None = None
    load: _Load | None = None
    force: threading.Event = field(default_factory=threading.Event)
    failure: ApiError | None = None
    failed_at: float = 0.0
    young_deaths: int = 0
    death: ApiError | None = None  # of the last engine, until another one is loaded


class EnginePool:
    """on_events gets every engine's events, on that engine's reader thread."""

    def __init__(self, owner: PoolOwner, *, on_events: Callable[[tuple[RequestEvent, ...]], None]) -> None:
        self._owner = owner
        self._on_events = on_events
        self._lock = threading.Lock()
        self._slots: dict[str, _Slot] = {}
        self._closed = threading.Event()
        self._watch = threading.Thread(target=self._watch_engines, name="engine-watch", daemon=True)

    def start(self) -> None:
        """Watch the engines: one that hangs is killed after settings.ENGINE_STALL_SECONDS."""
        self._watch.start()

    def get(self, model_id: str, *, retry: bool = False) -> Engine:
        """The model's engine, loaded first if need be; callers that come at once share one load. Raises ApiError.

        A load that has failed is not tried again for settings.LOAD_RETRY_SECONDS: its error is told again, unless
        `retry` is set.
        """
        with self._lock:
            slot = self._slots.setdefault(model_id, _Slot())
            if slot.engine is not None and slot.engine.state == "loaded":
                return slot.engine
            if self._closed.is_set():
                raise BackendUnavailable("The worker is shutting down.", retry_after=1)
            load = slot.load
            mine = load is None
            if load is None:
                if slot.failure is not None and not retry and self._is_fresh(slot):
                    raise slot.failure
                load = slot.load = _Load()
        if mine:
            self._run(model_id, slot, load)
        return load.outcome.result()

    def unload(self, model_id: str, *, force: bool = False, only_if_idle_for: float | None = None) -> int | None:
        """End the model's engine once what runs has ended, with `force` at once. Returns the bytes freed, measured.

        None when there was nothing to unload, or, with `only_if_idle_for`, when it is in use or was a short time ago.
        A load that goes on is cancelled.
        """
        with self._lock:
            slot = self._slots.get(model_id)
        if slot is None:
            return None
        gently = only_if_idle_for is not None
        if force:
            slot.force.set()
        if not gently:
            self._cancel_load(slot)
        if not slot.work.acquire(blocking=not gently):
            return None
        try:
            return self._unload(slot, force=force, only_if_idle_for=only_if_idle_for)
        finally:
            slot.force.clear()
            slot.work.release()

    def reports(self) -> tuple[DeploymentReport, ...]:
        """Every model that is here, on its way, or has failed lately."""
        with self._lock:
            slots = list(self._slots.items())
        reports = (self._report(model_id, slot) for model_id, slot in slots)
        return tuple(report for report in reports if report is not None)

    def held_bytes(self, device: str) -> int:
        """What the engines hold of a device."""
        with self._lock:
            engines = [slot.engine for slot in self._slots.values() if slot.engine is not None]
        return sum(engine.bytes_by_device().get(device, 0) for engine in engines)

    def stop(self) -> None:
        """End every engine; later calls of `get` fail."""
        self._closed.set()
        with self._lock:
            slots = list(self._slots.values())
        for slot in slots:
            self._cancel_load(slot)
            if slot.engine is not None:
                slot.engine.stop()

    # ------------------------------------------------------------ load

    def _run(self, model_id: str, slot: _Slot, load: _Load) -> None:
        error: ApiError | None = None
        engine: Engine | None = None
        with slot.work:
            try:
                engine = self._load(model_id, slot, load)
            except ApiError as refused:
                error = refused
            except Exception:  # whatever it is, those who wait must hear of it
                logger.exception("model %s could not be loaded", model_id)
                error = ModelLoadFailed()
            with self._lock:
                slot.load = None
                slot.failure = error if isinstance(error, ModelLoadFailed) else None  # others may pass by themselves
                slot.failed_at = time.monotonic()
                if error is not None:
                    slot.engine = None
        if engine is not None:
            slot.death = None
            load.outcome.set_result(engine)
        elif error is not None:
            logger.warning("model %s could not be loaded: %s", model_id, error.message)
            self._owner.failed(model_id, error)
            load.outcome.set_exception(error)

    def _load(self, model_id: str, slot: _Slot, load: _Load) -> Engine:
        prepared = 0.0
        given_up = BackendUnavailable(
            "The load was given up, since the model was unloaded meanwhile.", details={"reason": UNLOADED}
        )

        def say(progress: float, stage: str) -> None:
            nonlocal prepared
            if stage != "wait":
                prepared = _PREPARED_SHARE
            if load.cancelled or self._closed.is_set():
                raise given_up
            tell(progress * _PREPARED_SHARE, stage)

        def tell(progress: float, stage: str) -> None:
            load.progress, load.stage = progress, stage
            self._owner.progressed(model_id, progress, stage)

        began = time.monotonic()
        config = self._owner.prepare(model_id, say)
        engine = Engine(
            model_id,
            config,
            on_events=self._on_events,
            on_lost=self._died,
            on_progress=lambda progress, stage: tell(prepared + progress * (1 - prepared), stage),
        )
        with self._lock:
            slot.engine = engine
        if load.cancelled or self._closed.is_set():
            raise given_up
        try:
            ready = engine.start(settings.LOAD_TIMEOUT)
        except ApiError:
            if load.cancelled:
                raise given_up from None
            raise
        if self._closed.is_set():
            engine.stop()
            raise BackendUnavailable("The worker is shutting down.", retry_after=1)
        seconds = time.monotonic() - began
        logger.info("model %s loaded on %s in %.1f s", model_id, ready.backend, seconds)
        self._owner.loaded(model_id, ready, seconds)
        return engine

    def _is_fresh(self, slot: _Slot) -> bool:
        return time.monotonic() - slot.failed_at < settings.LOAD_RETRY_SECONDS

    # ------------------------------------------------------------ unload

    def _cancel_load(self, slot: _Slot) -> None:
        with self._lock:
            load, engine = slot.load, slot.engine
            if load is not None:
                load.cancelled = True
        if load is not None and engine is not None and engine.state == "loading":
            engine.stop()

    def _unload(self, slot: _Slot, *, force: bool, only_if_idle_for: float | None) -> int | None:
        slot.failure = None
        engine = slot.engine
        if engine is None or engine.state == "failed":
            slot.engine = None
            return None
        if not engine.close(only_if_idle_for=only_if_idle_for):
            return None
        while not engine.wait_drained(0.0 if force or slot.force.is_set() else 0.1):
            if force or slot.force.is_set() or self._closed.is_set():
                engine.fail_running("The model was unloaded while it ran this request.")
        freed = engine.stop()
        with self._lock:
            slot.engine = None
        logger.info("model %s unloaded, %d bytes freed", engine.model_id, freed)
        return freed

    # ------------------------------------------------------------ deaths

    def _died(self, engine: Engine) -> None:
        """Start a dead engine again, before anybody waits for it; one that keeps dying young after growing pauses."""
        if self._closed.is_set():
            return
        with self._lock:
            slot = self._slots[engine.model_id]
            if slot.engine is not engine:
                return
            slot.death = engine.error or ModelLoadFailed()
            young = engine.lived_seconds < _YOUNG_SECONDS
            slot.young_deaths = slot.young_deaths + 1 if young else 0
            pause = _FIRST_PAUSE_SECONDS * 2 ** (slot.young_deaths - 1) if young else 0.0
        arguments = (engine, slot, min(pause, _LAST_PAUSE_SECONDS))
        threading.Thread(target=self._restart, args=arguments, name="engine-restart", daemon=True).start()

    def _restart(self, engine: Engine, slot: _Slot, pause: float) -> None:
        error = engine.error or ModelLoadFailed()
        try:
            self._owner.lost(engine.model_id, error)
            if self._closed.wait(pause) or slot.engine is not engine:
                return
            self.get(engine.model_id)
        except ApiError as refused:
            logger.warning("model %s was not loaded again: %s", engine.model_id, refused.message)
        except Exception:
            logger.exception("model %s was not loaded again", engine.model_id)

    def _watch_engines(self) -> None:
        while not self._closed.wait(_WATCH_SECONDS):
            with self._lock:
                engines = [slot.engine for slot in self._slots.values() if slot.engine is not None]
            if settings.ENGINE_STALL_SECONDS:
                for engine in engines:
                    engine.kill_if_stalled(settings.ENGINE_STALL_SECONDS)

    def _report(self, model_id: str, slot: _Slot) -> DeploymentReport | None:
        load, engine, failure = slot.load, slot.engine, slot.failure
        death = "" if slot.death is None else slot.death.message
        if engine is not None and engine.state in {"loaded", "unloading"}:
            return engine.report()
        if load is not None:
            started = engine.report() if engine is not None else None
            return DeploymentReport(
                model_id=model_id,
                state="loading",
                pid=started.pid if started else None,
                progress=load.progress,
                stage=load.stage,
                error=death,
                device_bytes=started.device_bytes if started else {},
            )
        if failure is None and engine is not None:  # dead, and about to be started again
            return DeploymentReport(model_id=model_id, state="loading", stage="wait", error=death)
        if failure is not None:
            return DeploymentReport(
                model_id=model_id,
                state="failed",
                error=failure.message,
                error_code=failure.code,
                is_missed=slot.death is not None or self._is_fresh(slot),
            )
        return None
