"""Sends the items of jobs to the workers and writes down what becomes of them, in the scheduler's process.

A dispatcher is to the workers what a web process is: it goes through the gateway, which ends every call exactly once.
It keeps a small window of items in work for each model, and the next ones in the database, so that a job of any size
takes no more of Redis, of the workers and of the memory than that window.
"""

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import redis
from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection
from django.utils import timezone

from common.errors import ApiError
from common.redis import close_async_redis
from inference.gateway import close_gateway
from jobs import execution, lease, news
from jobs.capacity import Capacity
from jobs.deliveries import deliver_due
from jobs.execution import Item, Outcome
from jobs.ingestion import Ingestion
from jobs.lease import Lease
from jobs.ledger import Again, Turn, end_if_done, write
from jobs.models import Job
from jobs.overview import Standing, look
from jobs.shares import Contender, shared_out
from jobs.verdicts import shown, verdict, wait_of

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# Of cancelled jobs a dispatcher hears within this time, of new ones as well.
LOOK_SECONDS = 0.25
RENEW_SECONDS = 1.0
# Ends of items that come together are written down together.
GATHER_SECONDS = 0.02
_PROGRESS_SECONDS = 1.0
_PAUSE_AFTER_FAILURE = 1.0
# A job without anything to send is asked again after this.
_DRY_SECONDS = 0.5


class Dispatcher:
    """Works while it holds the lease. `run` returns after `stop`, which any thread may call."""

    def __init__(self) -> None:
        self._lease = Lease()
        self._capacity = Capacity()
        self._held_until = float("-inf")
        self._renew_at = float("-inf")
        self._look_at = float("-inf")
        self._standings: dict[str, Standing] = {}
        self._ingestions: dict[str, Ingestion] = {}
        self._tasks: dict[int, tuple[Item, asyncio.Task[None]]] = {}
        self._turn = Turn()
        self._dry_until: dict[str, float] = {}
        self._careful: set[str] = set()
        self._told_at: dict[str, float] = {}
        self._delivering: asyncio.Task[None] | None = None
        self._stopping = False
        self._due = asyncio.Event()

    async def run(self) -> None:
        while not self._stopping:
            try:
                pause = await self._work()
            except (DatabaseError, redis.RedisError) as error:
                logger.warning("jobs wait: %s", error)
                pause = _PAUSE_AFTER_FAILURE
            except Exception:
                logger.exception("a turn of the jobs failed")
                pause = _PAUSE_AFTER_FAILURE
            await self._rest(pause)
        await self._let_go()

    def stop(self) -> None:
        self._stopping = True
        self._due.set()

    # ------------------------------------------------------------ turns

    async def _work(self) -> float:
        """One turn; returns how long to rest if nothing happens."""
        now = time.monotonic()
        if now >= self._renew_at and not await self._renew(now):
            return RENEW_SECONDS
        if now >= self._look_at:
            await self._survey()
            self._look_at = time.monotonic() + LOOK_SECONDS
        is_reading = await self._ingest()
        self._turn.wants = self._wants()
        if self._turn:
            await self._write()
        self._deliver()
        return 0.0 if is_reading else LOOK_SECONDS

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._due.wait()
            await asyncio.sleep(GATHER_SECONDS)
        except TimeoutError:
            pass
        self._due.clear()

    async def _renew(self, now: float) -> bool:
        self._renew_at = now + RENEW_SECONDS
        had = now < self._held_until
        if not await _in_database(self._lease.hold):
            if self._tasks:
                logger.warning("another dispatcher has taken the jobs over")
            self._drop()
            return False
        self._held_until = now + lease.SECONDS
        if not had:
            if count := await _in_database(self._lease.take_over):
                logger.info("%d items of jobs are sent again", count)
            self._look_at = float("-inf")
        return True

    async def _survey(self) -> None:
        """Learn how the jobs stand, end those that are over, and stop what runs for others."""
        standings = await _in_database(look)
        self._standings = {standing.job_id: standing for standing in standings}
        for item, task in list(self._tasks.values()):
            if item.job_id not in self._standings:
                task.cancel()
        for known in (self._ingestions, self._dry_until, self._told_at):
            for job_id in known.keys() - self._standings.keys():
                known.pop(job_id)
        self._careful &= self._standings.keys()
        await self._capacity.refresh({standing.model for standing in standings})

    async def _ingest(self) -> bool:
        """Read on in the files of the jobs that are not known whole; whether there is more."""
        more = False
        for standing in self._standings.values():
            if standing.is_validating:
                ingestion = self._ingestions.setdefault(standing.job_id, Ingestion(standing.job_id))
                if await _in_database(ingestion.step):
                    more = True
                else:
                    self._look_at = float("-inf")
        return more

    # ------------------------------------------------------------ what is sent

    def _wants(self) -> dict[str, tuple[int, bool]]:
        now, moment = time.monotonic(), timezone.now()
        in_work = Counter(item.job_id for item, _ in self._tasks.values())
        of_model: Counter[str] = Counter()
        contenders: dict[str, list[Contender]] = defaultdict(list)
        for item, _ in self._tasks.values():
            of_model[self._model_of(item)] += 1
        for standing in self._standings.values():
            if standing.is_ready(moment) and self._dry_until.get(standing.job_id, 0.0) <= now:
                limit = 1 if standing.job_id in self._careful else None
                contenders[standing.model].append(Contender(standing.job_id, standing.owner_id, standing.weight, limit))
        suspected = {item.job_id for item, _ in self._tasks.values() if item.attempts}
        wants: dict[str, tuple[int, bool]] = {}
        for model, of_it in contenders.items():
            room = self._capacity.room(model, of_model[model], len(self._tasks))
            for job_id, count in shared_out(room, of_it, in_work).items():
                wants[job_id] = (count, job_id not in suspected)
        return wants

    def _model_of(self, item: Item) -> str:
        standing = self._standings.get(item.job_id)
        return standing.model if standing is not None else item.model

    async def _write(self) -> None:
        turn, self._turn = self._turn, Turn()
        try:
            taken, changed = await _in_database(write, turn, self._lease.holder)
        except BaseException:
            # Nothing of it was written: the results are written with the next turn.
            self._turn.outcomes[:0] = turn.outcomes
            self._turn.again[:0] = turn.again
            self._turn.waits = {**turn.waits, **self._turn.waits}
            raise
        for item in taken:
            task = asyncio.create_task(self._run(item), name=f"item {item.job_id}-{item.index}")
            self._tasks[item.pk] = (item, task)
        found = Counter(item.job_id for item in taken)
        for job_id, (count, _) in turn.wants.items():
            if found[job_id] < count:
                self._dry_until[job_id] = time.monotonic() + _DRY_SECONDS
        for retry in turn.again:
            self._dry_until.pop(retry.item.job_id, None)
        for job in changed:
            await self._tell(job)

    async def _tell(self, job: Job) -> None:
        if await _in_database(end_if_done, job):
            self._look_at = float("-inf")
        elif (now := time.monotonic()) - self._told_at.get(job.pk, 0.0) >= _PROGRESS_SECONDS:
            self._told_at[job.pk] = now
            await sync_to_async(news.tell)(job)

    async def _run(self, item: Item) -> None:
        """Run one item, and keep what becomes of it for the next turn."""
        standing = self._standings.get(item.job_id)
        if standing is None:  # its job has ended meanwhile
            self._tasks.pop(item.pk, None)
            return
        try:
            self._ended(await execution.run(item, standing.caller))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, ApiError | redis.RedisError):
                logger.exception("item %d of job %s failed", item.index, item.job_id)
            self._ended_badly(item, error)
        finally:
            self._tasks.pop(item.pk, None)
            self._due.set()

    def _ended(self, outcome: Outcome) -> None:
        job_id = outcome.item.job_id
        self._turn.outcomes.append(outcome)
        self._careful.discard(job_id)
        standing = self._standings.get(job_id)
        if standing is not None and standing.waits_for:
            self._turn.waits[job_id] = ("", None)
            self._standings[job_id] = standing.without_wait()

    def _ended_badly(self, item: Item, error: Exception) -> None:
        decided = verdict(error, item.attempts)
        if decided == "failed":
            self._turn.outcomes.append(execution.failed(item, shown(error)))
            return
        code = error.code if isinstance(error, ApiError) else type(error).__name__
        self._turn.again.append(Again(item, code, counts=decided == "again"))
        if decided == "later" and (standing := self._standings.get(item.job_id)) is not None:
            reason, seconds = wait_of(error)
            until = timezone.now() + timedelta(seconds=seconds)
            self._careful.add(item.job_id)
            self._turn.waits[item.job_id] = (reason, until)
            self._standings[item.job_id] = standing.waiting(reason, until)

    # ------------------------------------------------------------ the rest

    def _deliver(self) -> None:
        if self._delivering is None or self._delivering.done():
            self._delivering = asyncio.create_task(self._deliver_and_rest(), name="webhooks")

    async def _deliver_and_rest(self) -> None:
        try:
            if await deliver_due():
                return
        except Exception:
            logger.exception("webhooks wait")
        await asyncio.sleep(RENEW_SECONDS)

    def _drop(self) -> None:
        """Forget what is in work: it is another one's now."""
        for _, task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        self._ingestions.clear()
        self._turn = Turn()
        self._standings.clear()
        self._held_until = float("-inf")
        self._lease = Lease()

    async def _let_go(self) -> None:
        tasks = [task for _, task in self._tasks.values()]
        if self._delivering is not None:
            tasks.append(self._delivering)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            if self._turn.outcomes:
                self._turn.wants = {}
                await _in_database(write, self._turn, self._lease.holder)
            await _in_database(self._lease.let_go)
        except DatabaseError as error:
            logger.warning("the jobs could not be handed over in order: %s", error)
        await close_gateway()
        await close_async_redis()


async def _in_database(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run it in the thread that has the database connection; one that has failed is closed, so that it is made anew."""

    def run() -> R:
        try:
            return work(*args, **kwargs)
        except DatabaseError:
            if not connection.in_atomic_block:
                connection.close()
            raise

    return await sync_to_async(run)()


def run_dispatcher(started: Callable[[Dispatcher, asyncio.AbstractEventLoop], Any]) -> None:
    """Run one in this thread until it is stopped; `started` is told of it first."""

    async def run() -> None:
        dispatcher = Dispatcher()
        started(dispatcher, asyncio.get_running_loop())
        await dispatcher.run()

    asyncio.run(run())
