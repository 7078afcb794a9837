"""The only road from a web process to the workers.

One gateway per event loop. It publishes each job as one Celery task, and one reader task takes what the workers send to
this process's stream and hands it to the calls that wait. Whatever happens to a worker, the broker or the client, every
call ends exactly once: with the engine's end, or with an error from here.
"""

import asyncio
import itertools
import logging
import secrets
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import redis
from django.conf import settings

from common.errors import ApiError, BackendUnavailable, InferenceFailed, InternalError
from common.passage import Passage, passage
from engine.messages import Delta, Generate
from inference.calls import Call, raise_swallowed_cancellation
from inference.lost import lost
from inference.messages import WORKER_LOST, Cancel, Frame, Job, Kind
from inference.placement import choose
from inference.transport import RedisTransport, Transport
from models_mgmt.presence import WorkerReport

logger = logging.getLogger(__name__)

BEAT_SECONDS = 0.5
_CANCELLED_SECONDS = 60.0


class Gateway:
    """Sends requests to the workers and brings their events back."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._web_id = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._calls: dict[str, Call] = {}
        self._sequences: dict[str, int] = {}
        self._workers: dict[str, WorkerReport] = {}
        self._known: dict[str, WorkerReport] = {}  # those, and the gone ones that calls still wait for
        self._sent: dict[str, tuple[Job, int]] = {}
        self._demands: dict[str, asyncio.Task[str]] = {}
        self._missing: set[str] = set()
        self._opening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def new_id(self, request_id: str) -> str:
        """An id for the engine: unique, and it shows the public one."""
        return f"{request_id}~{self._web_id}{next(self._numbers):x}"

    @property
    def in_flight(self) -> int:
        """How many calls wait for their end."""
        return len(self._calls)

    async def submit(
        self,
        requests: Sequence[Generate],
        *,
        request_id: str,
        kind: Kind,
        model_id: str,
        seconds: float,
        user_id: int | None = None,
        key_id: int | None = None,
        budgeted: bool = False,
        broker_priority: int = 3,
    ) -> list[Call]:
        """Send requests (with ids from `new_id`) to a worker as one job, and return a call for each.

        The caller must `close` every call, however it ends. Raises BackendUnavailable when no worker lives or the
        model's queue is full.
        """
        await self._open()
        worker = await self._worker_for(model_id)
        way = passage.get() or Passage(None)
        way.handed_on()
        job = Job(
            job_id=requests[0].request_id,
            request_id=request_id,
            kind=kind,
            model_id=model_id,
            reply_to=self._web_id,
            requests=tuple(requests),
            submitted_at=self._transport.now(),
            seconds=seconds,
            user_id=user_id,
            key_id=key_id,
            budgeted=budgeted,
            auth_time=way.auth_time,
            door_time=way.door_time or 0.0,
            trace=way.carrier,
        )
        calls = [self._new_call(request, job, worker, seconds) for request in requests]
        self._sent[job.job_id] = (job, broker_priority)
        try:
            await self._transport.submit(worker.queue, job, broker_priority, seconds)
            raise_swallowed_cancellation()
        except BackendUnavailable:  # the queue is full: nothing was sent
            self._forget(calls)
            raise
        except redis.RedisError as error:  # the task may be on its way all the same
            self.close(*calls, reason="lost")
            raise BackendUnavailable("The request could not be queued; try again.", retry_after=1) from error
        except BaseException:  # above all a client that has gone meanwhile
            self.close(*calls)
            raise
        return calls

    def close(self, *calls: Call, reason: str = "disconnected") -> None:
        """Be done with calls; those that still run are cancelled at their worker. Safe to repeat."""
        self._cancel([call for call in calls if not call.ended], reason)
        self._forget(calls)

    async def aclose(self) -> None:
        """End the gateway and every call; for the end of the event loop."""
        for call in list(self._calls.values()):
            self._fail(call, InternalError("The server is shutting down."), reason="disconnected")
        await asyncio.sleep(0)
        pending = [task for task in self._tasks if not task.done() and task.get_name() == "cancel"]
        await asyncio.gather(*pending, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._opening is not None:
            await self._transport.close()

    # ------------------------------------------------------------ start

    async def _open(self) -> None:
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = asyncio.create_task(self._start(), name="open")
        try:
            await asyncio.shield(self._opening)
        except redis.RedisError as error:
            raise BackendUnavailable("The server's queue can't be reached; try again.", retry_after=1) from error

    async def _start(self) -> None:
        await self._transport.open(self._web_id)
        await self._refresh()
        self._spawn(self._read(), "read")
        self._spawn(self._watch(), "watch")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _worker_for(self, model_id: str) -> WorkerReport:
        sent = Counter(call.worker_id for call in self._calls.values())
        worker = choose(self._workers.values(), model_id, sent)
        if worker is None:
            try:
                await self._refresh()
            except redis.RedisError as error:
                raise BackendUnavailable("The server's queue can't be reached; try again.", retry_after=1) from error
            worker = choose(self._workers.values(), model_id, sent)
        if worker is None and settings.AUTOLOAD:
            worker = await self._loading_worker(model_id)
        if worker is None:
            raise BackendUnavailable(
                "No worker can run this model now; try again later.", details={"model": model_id}, retry_after=2
            )
        return worker

    async def _loading_worker(self, model_id: str) -> WorkerReport | None:
        """Have a model loaded; all who want it at once ask for it once."""
        demand = self._demands.get(model_id)
        if demand is None:
            demand = self._demands[model_id] = asyncio.create_task(self._transport.demand(model_id), name="demand")
            demand.add_done_callback(lambda task: self._demanded(model_id, task))
        worker_id = await asyncio.shield(demand)
        if worker_id not in self._workers:
            await self._refresh()
        return self._workers.get(worker_id)

    def _demanded(self, model_id: str, demand: "asyncio.Task[str]") -> None:
        self._demands.pop(model_id, None)
        if not demand.cancelled() and demand.exception() is not None:
            logger.debug("the model %s can't be loaded now", model_id)  # told to all who still wait for it

    def _new_call(self, request: Generate, job: Job, worker: WorkerReport, seconds: float) -> Call:
        call = Call(
            request.request_id,
            job_id=job.job_id,
            model_id=job.model_id,
            queue=worker.queue,
            worker_id=worker.worker_id,
            limit=settings.STREAM_BUFFER_EVENTS,
        )
        call.door_time = job.door_time
        call.timer = asyncio.get_running_loop().call_later(seconds, self._expire, call, seconds)
        self._calls[request.request_id] = call
        return call

    # ------------------------------------------------------------ events

    async def _read(self) -> None:
        while True:
            try:
                for frame in await self._transport.read():
                    self._dispatch(frame)
            except redis.RedisError as error:
                logger.warning("the workers' answers can't be read: %s", error)
                await asyncio.sleep(0.2)
            except Exception:
                logger.exception("an answer of a worker can't be taken")
                await asyncio.sleep(0.2)

    def _dispatch(self, frame: Frame) -> None:
        expected = self._sequences.get(frame.worker_id, 0) + 1
        if frame.sequence < expected:
            return  # sent twice, after an answer of Redis was lost
        self._sequences[frame.worker_id] = frame.sequence
        if frame.sequence > expected:
            self._fail_all(lambda call: call.worker_id == frame.worker_id, "Some of the output was lost.")
        for event in frame.events:
            call = self._calls.get(event.request_id)
            if call is None:
                continue
            if call.accepted_at is None:
                call.worker_id, call.backend = frame.worker_id, frame.backend
                if (worker := self._workers.get(frame.worker_id)) is not None:
                    call.queue = worker.queue  # another one, if the request was moved
            if call.is_full and isinstance(event, Delta):
                self._fail(call, InferenceFailed("The client reads too slowly."), reason="slow_reader", drop=True)
            else:
                call.deliver(event)

    def _expire(self, call: Call, seconds: float) -> None:
        error = InferenceFailed(f"The request timed out after {seconds:g} s.", details={"timeout": seconds})
        self._fail(call, error, reason="timeout")

    def _fail(self, call: Call, error: ApiError, *, reason: str, drop: bool = False) -> None:
        if not call.ended:
            self._cancel([call], reason)
            call.fail(error, drop=drop)

    def _fail_all(self, which: Any, message: str) -> None:
        for call in [call for call in self._calls.values() if which(call)]:
            self._fail(call, InferenceFailed(message), reason="lost")

    def _forget(self, calls: Iterable[Call]) -> None:
        for call in calls:
            if call.timer is not None:
                call.timer.cancel()
            self._calls.pop(call.request_id, None)
            self._sent.pop(call.job_id, None)

    def _cancel(self, calls: Iterable[Call], reason: str) -> None:
        """Tell the workers, without waiting for it."""
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for call in calls:
            groups[call.queue, call.model_id].append(call.request_id)
        for (queue, model_id), ids in groups.items():
            self._spawn(self._send_cancel(queue, model_id, Cancel(tuple(ids), reason)), "cancel")

    async def _send_cancel(self, queue: str, model_id: str, cancel: Cancel) -> None:
        try:
            await self._transport.cancel(queue, model_id, cancel, settings.REQUEST_TIMEOUT + _CANCELLED_SECONDS)
        except redis.RedisError:
            logger.exception("cancelling %s failed", ", ".join(cancel.request_ids))

    # ------------------------------------------------------------ watch

    async def _watch(self) -> None:
        """Twice a second: keep our stream, look who lives, and fail what a lost worker held."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                if not await self._transport.beat():
                    # Under another id, since what the workers sent meanwhile is lost and their count has gone on.
                    self._web_id = secrets.token_hex(6)
                    await self._transport.open(self._web_id)
                    self._sequences.clear()
                    self._fail_all(lambda _: True, "The connection to the workers was lost.")
                await self._refresh()
                await self._fail_lost()
            except redis.RedisError as error:
                logger.warning("the workers can't be watched: %s", error)
            except Exception:
                logger.exception("watching the workers failed")

    async def _refresh(self) -> None:
        self._workers = {worker.worker_id: worker for worker in await self._transport.workers()}
        held = {call.worker_id for call in self._calls.values()}
        self._known = {name: worker for name, worker in self._known.items() if name in held} | self._workers

    async def _fail_lost(self) -> None:
        """A worker counts as lost when two looks in a row have missed it."""
        missing = {call.worker_id for call in self._calls.values()} - self._workers.keys()
        lost, self._missing = missing & self._missing, missing
        if not lost:
            return
        calls = [call for call in self._calls.values() if call.worker_id in lost and not call.ended]
        waiting = sorted({call.job_id for call in calls if call.accepted_at is None})
        claims = await self._transport.claims(waiting) if waiting else {}
        begun = {call.job_id for call in calls if call.accepted_at is not None}
        unbegun: dict[str, list[Call]] = defaultdict(list)
        gone: list[Call] = []
        for call in calls:
            claimed_by = claims.get(call.job_id, "")
            if call.accepted_at is None and claimed_by in self._workers:
                call.worker_id = claimed_by  # its successor has taken it from the queue
            elif call.job_id not in begun and not claimed_by:
                unbegun[call.job_id].append(call)
            else:
                gone.append(call)
        self._lose(gone, InferenceFailed("The worker that ran this request was lost."))
        for job_id, waiting_calls in unbegun.items():
            self._spawn(self._move(job_id, waiting_calls), "move")

    async def _move(self, job_id: str, calls: Sequence[Call]) -> None:
        """Send a job that nobody has begun to another worker. Whoever claims it first runs it: it never runs twice."""
        trouble: ApiError = InferenceFailed("The worker that this request waited for was lost.")
        try:
            job, priority = self._sent[job_id]
            worker = await self._worker_for(job.model_id)
            for call in calls:
                call.worker_id, call.queue = worker.worker_id, worker.queue
            await self._transport.submit(worker.queue, job, priority, job.seconds)
        except (redis.RedisError, KeyError):
            pass
        except ApiError as error:
            trouble = error
        else:
            logger.info("job %s was moved to %s", job_id, worker.queue)
            return
        self._lose(calls, trouble)

    def _lose(self, calls: Sequence[Call], error: ApiError) -> None:
        """Fail calls of a lost worker; tell of them and keep their records in that worker's place."""
        ends = []
        for call in calls:
            job, _ = self._sent.get(call.job_id, (None, 0))
            if job is not None and not call.ended:
                worker = self._known.get(call.worker_id)
                place, backend = (f"{worker.host}/{worker.device}", worker.backend) if worker else ("", "")
                ends.append(lost(job, call, error, worker=place, backend=backend))
            self._fail(call, error, reason=WORKER_LOST)
        if ends:
            self._spawn(self._transport.lost(ends), "lost")


_gateways: WeakKeyDictionary[asyncio.AbstractEventLoop, Gateway] = WeakKeyDictionary()


def gateway() -> Gateway:
    """The running event loop's gateway, made at the first call."""
    loop = asyncio.get_running_loop()
    found = _gateways.get(loop)
    if found is None:
        found = _gateways[loop] = Gateway(RedisTransport())
    return found


async def close_gateway() -> None:
    """End the running event loop's gateway, if it has one."""
    found = _gateways.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.aclose()
