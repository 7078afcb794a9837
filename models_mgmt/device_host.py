"""What a worker does for the models of its device: loads and unloads them as their rows say, and writes how it went."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.conf import settings
from django.db import DatabaseError, close_old_connections
from django.db.models.functions import Now

from common.byte_sizes import format_bytes
from common.errors import (
    ApiError,
    BackendUnavailable,
    InsufficientMemory,
    InvalidInput,
    ModelLoadFailed,
    ModelNotFound,
    from_code,
)
from common.events import (
    AnyEvent,
    ModelLoaded,
    ModelLoading,
    ModelLost,
    ModelUnloaded,
    publish,
)
from common.events import ModelLoadFailed as ModelLoadFailedEvent
from common.redis import sync_redis
from engine.messages import EngineConfig, Ready, RequestEvent
from models_mgmt.deployments import LoadOptions, check_context, request_load, ticket_key
from models_mgmt.device_memory import DeviceMemory, measure
from models_mgmt.engine_config import engine_config
from models_mgmt.engine_pool import EnginePool, Say
from models_mgmt.engines import Engine
from models_mgmt.models import Deployment, Model
from models_mgmt.needs import Needs
from models_mgmt.presence import DeploymentReport, WorkerReport, live_workers
from models_mgmt.room import Room
from models_mgmt.sources import SourceError, prepare

logger = logging.getLogger(__name__)

State, Origin = Deployment.State, Deployment.Origin
_TICKET_SECONDS = 3600
_PROGRESS_STEP = 0.05
_PROGRESS_SECONDS = 0.5
_ANNOUNCED_SECONDS = 30.0
_START_SECONDS = 60.0


class DeviceHost:
    """The models of one worker. `worker` tells who that is; `changed` is called when the next heartbeat has news.

    Its methods are called by many threads at once.
    """

    def __init__(
        self,
        worker: Callable[[], WorkerReport],
        *,
        on_events: Callable[[tuple[RequestEvent, ...]], None],
        changed: Callable[[], None],
    ) -> None:
        self._worker = worker
        self._changed = changed
        self._pool = EnginePool(self, on_events=on_events)
        self._told: dict[str, tuple[float, float, str]] = {}
        self._loads_lock = threading.Lock()
        self._loads: dict[int, bool] = {}  # under way, by the row's key; True: asked for once more meanwhile
        self._load_slots = threading.BoundedSemaphore(settings.LOADS_AT_ONCE)
        identity = worker()
        self._host, self._device = identity.host, identity.device
        self._room = Room(identity, reports=self.reports, memory=self.memory, evict=self._evict)

    def start(self) -> None:
        """Called before this worker takes any work."""
        self._pool.start()
        try:
            with _connection():
                self._sign_off_predecessor()
        except DatabaseError:
            logger.exception("what the worker before this one held could not be signed off")
        threading.Thread(target=self._restore, name="restore", daemon=True).start()

    def stop(self) -> None:
        """End every engine. What an administrator asked for comes back when the worker does."""
        self._pool.stop()
        try:
            with _connection():
                held = self._rows().filter(state__in=(*Deployment.WANTED, State.UNLOADING))
                asked = held.filter(origin=Origin.ASKED, state__in=Deployment.WANTED)
                asked.update(state=State.LOST, error="Its worker was shut down.", changed_at=Now())
                held.exclude(state=State.LOST).update(state=State.UNLOADED, changed_at=Now())
        except DatabaseError as error:
            logger.warning("the deployments could not be signed off: %s", error)

    # ------------------------------------------------------------ what others ask of it

    def engine(self, model_id: str) -> Engine:
        """The engine for a request, loaded first if it must and may be. Raises ApiError."""
        return self._pool.get(model_id)

    def load(self, deployment_id: int) -> None:
        """Begin to load what a row wants, if it still does, and return at once. The row tells how it goes."""
        with self._loads_lock:
            if deployment_id in self._loads:
                self._loads[deployment_id] = True  # it may have been given up meanwhile, and be wanted again
                return
            self._loads[deployment_id] = False
        threading.Thread(target=self._load_until_settled, args=(deployment_id,), name="load", daemon=True).start()

    def _load_until_settled(self, deployment_id: int) -> None:
        while True:
            try:
                with self._load_slots:
                    self._load(deployment_id)
            except Exception:  # the scheduler sends a load that still waits again
                logger.exception("the deployment %d could not be loaded", deployment_id)
            with self._loads_lock:
                if not self._loads[deployment_id]:
                    del self._loads[deployment_id]
                    return
                self._loads[deployment_id] = False

    def _load(self, deployment_id: int) -> None:
        with _connection():
            row = self._rows().filter(pk=deployment_id).first()
        if row is None or not row.is_wanted:
            return
        try:
            engine = self._pool.get(row.model_id, retry=True)
        except ApiError:
            return  # told by `failed`
        # If it was there already, nobody has written that yet.
        self._write(
            row.model_id,
            only=(State.REQUESTED,),
            state=State.LOADED,
            measured_bytes=engine.memory_bytes,
            loaded_at=Now(),
        )

    def unload(
        self,
        deployment_id: int,
        *,
        ticket: str = "",
        force: bool = False,
        reason: str = "asked",
        only_if_idle_for: float | None = None,
    ) -> None:
        """Begin to unload a row's model, and return at once. The ticket tells how many bytes that has freed."""
        unloading = partial(
            self._unload_and_tell,
            deployment_id,
            ticket=ticket,
            force=force,
            reason=reason,
            only_if_idle_for=only_if_idle_for,
        )
        threading.Thread(target=unloading, name="unload", daemon=True).start()

    def unload_deleted(self, model_id: str) -> None:
        """Begin to unload a model that is no longer registered, and return at once."""
        threading.Thread(target=self._unload_deleted, args=(model_id,), name="unload", daemon=True).start()

    def _unload_deleted(self, model_id: str) -> None:
        with _connection():
            if not Model.objects.filter(pk=model_id).exists():  # another may have been registered under its id
                self._unload(model_id, reason="deleted", force=True, only_if_idle_for=None)

    def _unload_and_tell(
        self, deployment_id: int, *, ticket: str, force: bool, reason: str, only_if_idle_for: float | None
    ) -> None:
        with _connection():
            row = Deployment.objects.filter(pk=deployment_id, host=self._host, device=self._device).first()
        freed = None
        if row is not None:
            freed = self._unload(row.model_id, force=force, reason=reason, only_if_idle_for=only_if_idle_for)
        if ticket:
            sync_redis().set(ticket_key(ticket), "-" if freed is None else freed, ex=_TICKET_SECONDS)

    def reports(self) -> tuple[DeploymentReport, ...]:
        return self._pool.reports()

    def memory(self) -> DeviceMemory:
        return measure(self._device, held_bytes=self._held_bytes() if settings.MAX_MEMORY else 0)

    def _held_bytes(self) -> int:
        """What engines hold of this device: this worker's, and those of others whose models lie here in part."""
        return self._pool.held_bytes(self._device) + sum(
            report.device_bytes.get(self._device, 0)
            for worker in live_workers()
            if worker.host == self._host and worker.device != self._device
            for report in worker.deployments
        )

    # ------------------------------------------------------------ what the pool asks (`PoolOwner`)

    def prepare(self, model_id: str, say: Say) -> EngineConfig:
        with _connection():
            row = self._claim(model_id)
            self._prepare_files(row.model, say)
            check_context(row.model, row.context_length)
            self._fit(row, say)
            return engine_config(row.model, row)

    def progressed(self, model_id: str, progress: float, stage: str) -> None:
        now = time.monotonic()
        told_at, told, told_stage = self._told.get(model_id, (0.0, -1.0, ""))
        if stage == told_stage and (progress - told < _PROGRESS_STEP or now - told_at < _PROGRESS_SECONDS):
            return
        self._told[model_id] = (now, progress, stage)
        self._changed()
        self._publish(ModelLoading, model_id, progress=round(progress, 3), stage=stage)

    def loaded(self, model_id: str, ready: Ready, seconds: float) -> None:
        self._told.pop(model_id, None)
        self._room.forget(model_id)
        self._write(
            model_id,
            only=(State.REQUESTED, State.LOADING, State.LOST),
            state=State.LOADED,
            measured_bytes=ready.memory_bytes,
            load_time=round(seconds, 3),
            loaded_at=Now(),
            error="",
            error_code="",
            error_details={},
        )
        self._changed()
        self._publish(
            ModelLoaded,
            model_id,
            backend=ready.backend,
            quantization=ready.quantization,
            memory_usage=format_bytes(ready.memory_bytes),
            memory_usage_bytes=ready.memory_bytes,
            load_time=round(seconds, 3),
        )

    def failed(self, model_id: str, error: ApiError) -> None:
        self._told.pop(model_id, None)
        self._room.forget(model_id)
        self._changed()
        if isinstance(error, _NotLoaded | ModelNotFound):
            return
        if isinstance(error, InsufficientMemory):
            error.details |= self._room.around(model_id)
        self._write(
            model_id,
            only=Deployment.WANTED,
            state=State.FAILED,
            error_code=error.code,
            error=error.message,
            error_details=error.details,
        )
        self._publish(ModelLoadFailedEvent, model_id, code=error.code, error=error.message)

    def lost(self, model_id: str, error: ApiError) -> None:
        self._write(model_id, only=(State.LOADED,), state=State.LOADING, error=error.message)
        self._changed()
        self._publish(ModelLost, model_id, error=error.message)

    # ------------------------------------------------------------ rows

    def _rows(self) -> Any:
        return Deployment.objects.select_related("model").filter(host=self._host, device=self._device)

    def _claim(self, model_id: str) -> Deployment:
        """The row that wants this model here, marked as being loaded; made for a request if there is none."""
        row = self._wanted(model_id)
        if row is None:
            if not settings.AUTOLOAD:
                raise _NotLoaded("The model is not loaded.", details={"model": model_id}, retry_after=2)
            model = Model.objects.filter(pk=model_id).first()
            if model is None:
                raise ModelNotFound("The model is no longer registered.", details={"model": model_id})
            here = LoadOptions(devices=(f"{self._host}/{self._device}",), origin=Origin.DEMAND)
            request_load(model, here)
            row = self._wanted(model_id)
        if row is None:
            raise _NotLoaded("The model was unloaded meanwhile.", retry_after=1)
        self._write(model_id, only=Deployment.WANTED, state=State.LOADING)
        return row

    def _wanted(self, model_id: str) -> Deployment | None:
        row: Deployment | None = self._rows().filter(model_id=model_id, state__in=Deployment.WANTED).first()
        return row

    def _write(self, model_id: str, *, only: tuple[str, ...], **fields: Any) -> None:
        """Change the row if it is in one of these states; a database that fails costs the row's truth, not the load."""
        try:
            with _connection():
                rows = self._rows().filter(model_id=model_id, state__in=only)
                rows.update(**fields, changed_at=Now())
        except DatabaseError as error:
            logger.warning("how %s goes could not be written: %s", model_id, error)

    def _prepare_files(self, model: Model, say: Say) -> None:
        try:
            path = prepare(model, lambda stage, share: say(share, stage))
        except SourceError as error:  # what is wrong with the files is wrong with the model, not with this request
            code = ModelLoadFailed.code if error.code == InvalidInput.code else error.code
            raise from_code(code, error.message) from error
        model.refresh_from_db()
        model.path = str(path)

    def _fit(self, row: Deployment, say: Say) -> None:
        """What was free when the model was placed may be taken by now; and what it needs, known only now."""
        needs, kind = Needs(row.model, row.quantization, row.context_length), self._worker().backend
        if not row.estimated_bytes:
            row.estimated_bytes = needs.wanted(kind)
            self._write(row.model_id, only=(State.LOADING,), estimated_bytes=row.estimated_bytes)
        if len(set(row.devices)) == 1:  # of several, the engine looks at each
            self._room.find(row, needs.least(kind), say)

    def _evict(self, model_id: str) -> int | None:
        """None for a model that has become busy since it was looked at."""
        return self._unload(model_id, reason="evicted", only_if_idle_for=0.0)

    def _unload(self, model_id: str, *, reason: str, force: bool = False, only_if_idle_for: float | None) -> int | None:
        freed = self._pool.unload(model_id, force=force, only_if_idle_for=only_if_idle_for)
        states = (State.UNLOADING,) if only_if_idle_for is None else (State.UNLOADING, State.LOADED)
        if freed is not None or only_if_idle_for is None:
            self._write(model_id, only=states, state=State.UNLOADED)
        self._changed()
        if freed is not None:
            self._publish(
                ModelUnloaded, model_id, reason=reason, freed_memory=format_bytes(freed), freed_memory_bytes=freed
            )
        return freed

    def _publish(self, kind: Callable[..., AnyEvent], model_id: str, **fields: Any) -> None:
        publish(kind(model=model_id, host=self._host, device=self._device, **fields))

    # ------------------------------------------------------------ the beginning

    def _restore(self) -> None:
        """Load again what the worker before this one had, and the models that are always to be there."""
        try:
            self._wait_until_announced()
            with _connection():
                for row in self._rows().filter(state=State.REQUESTED):
                    self.load(row.pk)
                for model in Model.objects.filter(enabled=True).order_by("-is_default", "pk"):
                    if model.is_default or model.pinned:
                        self._want(model)
        except Exception:
            logger.exception("the models of this worker were not restored")

    def _sign_off_predecessor(self) -> None:
        """Its engines have ended with it."""
        left = self._rows().exclude(state__in=(State.REQUESTED, State.UNLOADED, State.FAILED))
        wanted = left.exclude(state=State.UNLOADING)
        wanted.filter(origin=Origin.ASKED).update(state=State.REQUESTED, changed_at=Now())
        for row in self._rows().filter(state__in=(State.LOADING, State.LOADED)):
            self._publish(ModelLost, row.model_id, error="Its worker was lost.")
        self._rows().exclude(state__in=(State.REQUESTED, State.FAILED)).update(state=State.UNLOADED, changed_at=Now())

    def _wait_until_announced(self) -> None:
        """Placement knows only of workers that have announced themselves."""
        own = self._worker().worker_id
        deadline = time.monotonic() + _ANNOUNCED_SECONDS
        while time.monotonic() < deadline and all(worker.worker_id != own for worker in live_workers()):
            time.sleep(0.05)

    def _want(self, model: Model) -> None:
        try:
            request_load(model, LoadOptions(origin=Origin.START))
        except ApiError as error:
            logger.error("the model %s is not loaded: %s", model.pk, error.message)


class _NotLoaded(BackendUnavailable):
    """Nobody has asked for this model here, and this request may not."""


@contextmanager
def _connection() -> Iterator[None]:
    """The database, for threads that live long: a connection that has gone stale is made anew."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


_current: "Future[DeviceHost]" = Future()


def set_current(host: DeviceHost) -> None:
    """Name this process's host, for the tasks. Once in a process's life."""
    _current.set_result(host)


def current_host() -> DeviceHost:
    """This process's host, once it has been started. Raises TimeoutError in a process that has none."""
    return _current.result(_START_SECONDS)
