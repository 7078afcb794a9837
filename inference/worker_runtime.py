"""The living parts of a device's worker process: engines, replies, heartbeat, control, records."""

import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable

import msgspec
from django.conf import settings

from common import metrics
from common.errors import ApiError, BackendUnavailable, InferenceFailed
from common.redis import sync_redis
from engine.client import EngineGone
from engine.messages import Failed, Generate, RequestEvent
from inference import keys
from inference.control import ControlListener
from inference.event_publisher import EventPublisher
from inference.heartbeat import Heartbeat
from inference.messages import WORKER_LOST, Job
from inference.plugin_chain import PluginSeam
from inference.recorder import Recorder
from inference.replies import ReplySender
from inference.running import Running, RunningJob, RunningTable, cancelled_end, is_end
from models_mgmt.device_host import DeviceHost, set_current
from models_mgmt.engine_config import backend_of
from models_mgmt.engines import Engine, EngineClosed
from models_mgmt.presence import WorkerReport, queue_name
from plugins_app.manager import PluginManager

logger = logging.getLogger(__name__)

_GRACE_SECONDS = 2.0
_ABORT_SECONDS = 5.0
_CLAIM_SLACK_SECONDS = 60.0
_SUBMIT_ATTEMPTS = 5


class WorkerRuntime:
    """One per worker process. `run` is called by many task threads at once."""

    def __init__(self, device: str) -> None:
        host = settings.WORKER_HOST
        self._report = WorkerReport(
            worker_id=f"{host}-{device}-{os.getpid()}-{secrets.token_hex(3)}",
            host=host,
            device=device,
            backend=backend_of(device),
            queue=queue_name(host, device),
            pid=os.getpid(),
            started_at=time.time(),
        )
        self._table = RunningTable()
        self._recorder = Recorder(worker=f"{host}/{device}", backend=self._report.backend)
        self._events = EventPublisher(backend=self._report.backend)
        self._replies = ReplySender(self._report.worker_id, self._report.backend, self._table, self._turned)
        self._plugin_manager = PluginManager(self._report.worker_id)
        self._plugins = PluginSeam(self._plugin_manager, self._replies)
        self._heartbeat = Heartbeat(self._table, self.report)
        self._models = DeviceHost(lambda: self._report, on_events=self._told, changed=self._heartbeat.beat_now)
        self._control = ControlListener(self._report.queue, self._table)
        self._metrics = metrics.Flusher()
        self._draining = threading.Event()

    def start(self) -> None:
        self._plugin_manager.start()
        self._metrics.start()
        self._recorder.start()
        self._events.start()
        self._replies.start()
        self._control.start()
        self._models.start()
        self._heartbeat.start()
        set_current(self._models)
        threading.Thread(target=self._drain, name="drain", daemon=True).start()
        logger.info("worker %s takes work from the queue %s", self._report.worker_id, self._report.queue)

    def report(self) -> WorkerReport:
        """This worker as of now."""
        return msgspec.structs.replace(
            self._report,
            draining=self._draining.is_set(),
            # In this order: what is unloaded in between counts as free and as held, never as neither.
            deployments=self._models.reports(),
            memory=self._models.memory(),
        )

    def run(self, job: Job) -> None:
        """Run a job to its end. A second delivery of it does nothing."""
        try:
            parent, entries = self._table.add(job)
        except KeyError:
            logger.warning("job %s is running already", job.job_id)
            return
        try:
            if not self._claim(job, parent, entries):
                logger.warning("job %s has expired or was begun before; it is not run again", job.job_id)
                self._table.match([Failed(entry.request_id, "", "") for entry in entries])
                return
            self._submit(job, entries)
        except Exception:
            logger.exception("job %s failed before it reached its engine", job.job_id)
            for entry in entries:
                if entry.engine is not None:
                    entry.engine.abort(entry.request_id)
            self._replies.put(tuple(Failed(e.request_id, "INFERENCE_FAILED", "The worker failed.") for e in entries))
        self._wait(parent, entries)
        self._plugins.finish(entries)

    def drain(self) -> None:
        """Let what runs end for a while, then end it; takes no new work meanwhile. Called in a signal handler."""
        self._draining.set()

    def stop(self) -> None:
        """End every engine and thread."""
        self._draining.set()
        self._models.stop()
        self._control.stop()
        self._replies.stop()
        self._recorder.stop()
        self._metrics.stop()
        self._events.stop()
        self._heartbeat.stop()
        self._plugin_manager.stop()

    # ------------------------------------------------------------ one job

    def _claim(self, job: Job, parent: RunningJob, entries: list[Running]) -> bool:
        """Mark a job as begun, and see whether its requests were cancelled before. False when it is not to be run."""
        with sync_redis().pipeline(transaction=False) as pipe:
            expiry = int((job.seconds + _CLAIM_SLACK_SECONDS) * 1000)
            pipe.set(keys.claim(job.job_id), self._report.worker_id, nx=True, px=expiry)
            pipe.mget([keys.cancelled(entry.request_id) for entry in entries])
            pipe.time()
            claimed, reasons, (seconds, microseconds) = pipe.execute()
        parent.began(seconds + microseconds / 1_000_000)
        for entry, reason in zip(entries, reasons, strict=True):
            if reason is not None:
                entry.cancelled = reason.decode()
        return bool(claimed) and parent.seconds_left > -_GRACE_SECONDS

    def _submit(self, job: Job, entries: list[Running]) -> None:
        """Hand a job's requests to its model's engine; one that is unloaded meanwhile is loaded again for them."""
        cancelled = [entry for entry in entries if entry.cancelled]
        self._replies.put(tuple(cancelled_end(entry) for entry in cancelled))
        left = self._plugins.prepare(job, entries) if len(cancelled) < len(entries) else []
        for entry, _ in left:
            entry.prepared_time = entry.parent.age
        for _ in range(_SUBMIT_ATTEMPTS):
            self._replies.put(tuple(cancelled_end(entry) for entry, _ in left if entry.cancelled))
            left = [(entry, request) for entry, request in left if not entry.cancelled]
            if not left:
                return
            try:
                engine = self._models.engine(job.model_id)
            except ApiError as error:
                self._fail([entry for entry, _ in left], error)
                return
            left = [(entry, request) for entry, request in left if not self._hand_over(engine, entry, request)]
        self._fail([entry for entry, _ in left], BackendUnavailable("The model was unloaded.", retry_after=1))

    def _told(self, events: tuple[RequestEvent, ...]) -> None:
        """Send on what an engine tells. Called by the engines' reader threads."""
        self._replies.put(self._plugins.passed(events))

    def _turned(self, entry: Running, event: RequestEvent) -> None:
        """A request was accepted or has ended."""
        if entry.cancelled == WORKER_LOST:
            return
        self._events.put(entry, event)
        if is_end(event):
            self._recorder.put(entry, event)

    def _hand_over(self, engine: Engine, entry: Running, request: Generate) -> bool:
        """False when the engine takes nothing more."""
        if entry.cancelled:
            return False
        entry.engine = engine
        try:
            engine.submit(request)
        except EngineClosed:
            entry.engine = None
            return False
        except EngineGone:
            self._fail([entry], InferenceFailed("The engine process has ended."))
        if entry.cancelled:  # it came between the lines above
            engine.abort(entry.request_id)
        return True

    def _fail(self, entries: Iterable[Running], error: ApiError) -> None:
        self._replies.put(tuple(Failed(e.request_id, error.code, error.message, error.details) for e in entries))

    def _wait(self, parent: RunningJob, entries: list[Running]) -> None:
        """Wait for the ends. The web process keeps the deadline; this is for one that no longer does."""
        if self._plugins.wait(parent, max(0.0, parent.seconds_left + _GRACE_SECONDS)):
            return
        for entry in self._table.find(entry.request_id for entry in entries):
            entry.cancel("timeout")
        if not self._plugins.wait(parent, _ABORT_SECONDS):
            logger.error("the engine of %s does not answer", parent.job.model_id)
            message = "The engine did not answer in time."
            self._replies.put(tuple(Failed(entry.request_id, "INFERENCE_FAILED", message) for entry in entries))
            parent.done.wait(_ABORT_SECONDS)

    # ------------------------------------------------------------ the process's life

    def _drain(self) -> None:
        self._draining.wait()
        self._heartbeat.beat_now()
        deadline = time.monotonic() + settings.DRAIN_SECONDS
        while len(self._table) and time.monotonic() < deadline:
            time.sleep(0.05)
        entries = self._table.all()
        for entry in entries:
            if entry.engine is not None:
                entry.engine.abort(entry.request_id)
        message = "The worker was shut down while it ran this request."
        self._replies.put(tuple(Failed(entry.request_id, "INFERENCE_FAILED", message) for entry in entries))
        self._models.stop()  # also what still loads, since tasks wait for it


_lock = threading.Lock()
_runtime: WorkerRuntime | None = None


def current() -> WorkerRuntime:
    """This process's runtime, started at the first call."""
    global _runtime  # noqa: PLW0603 - one per process, as the process itself
    with _lock:
        if _runtime is None:
            runtime = WorkerRuntime(settings.WORKER_DEVICE)
            runtime.start()
            _runtime = runtime
        return _runtime


def on_worker_ready(**_: object) -> None:
    """Celery's `worker_ready`: begin to live, in a worker that has a device."""
    if settings.WORKER_DEVICE:
        current()


def on_worker_shutting_down(how: str = "", **_: object) -> None:
    """Celery's `worker_shutting_down`, called in a signal handler."""
    if _runtime is not None:
        _runtime.drain()


def on_worker_shutdown(**_: object) -> None:
    """Celery's `worker_shutdown`: everything has been drained."""
    if _runtime is not None:
        _runtime.stop()
