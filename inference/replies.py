"""Sends what the engines tell to the web processes that wait: one Redis round trip per engine step at most.

The engines' reader threads only put events into a queue; one thread takes everything that has gathered, so that a busy
moment costs fewer round trips, not more.
"""

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable

import redis

from accounts import budgets
from common.errors import ContentBlocked
from common.redis import sync_redis
from engine.messages import Delta, Failed, Finished, RequestEvent
from inference import keys
from inference.messages import Frame
from inference.queue_limit import leave_in
from inference.running import Running, RunningJob, RunningTable, is_end

logger = logging.getLogger(__name__)

Pairs = list[tuple[Running, RequestEvent]]

_MAX_STREAM_LENGTH = 20_000
_MAX_GATHERED = 64
_GIVE_UP_SECONDS = 30.0


class ReplySender:
    """`on_turn` hears of each request's acceptance and end, after it was sent, on the sender's thread, and must not
    block."""

    def __init__(
        self, worker_id: str, backend: str, table: RunningTable, on_turn: Callable[[Running, RequestEvent], None]
    ) -> None:
        self._worker_id = worker_id
        self._backend = backend
        self._table = table
        self._on_turn = on_turn
        self._queue: queue.SimpleQueue[Pairs | None] = queue.SimpleQueue()
        self._sequences: dict[str, int] = defaultdict(int)
        self._thread = threading.Thread(target=self._run, name="replies", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send what is left, then end."""
        self._queue.put(None)
        self._thread.join(5.0)

    def put(self, events: tuple[RequestEvent, ...]) -> None:
        """Send events to whoever waits for them; those of ended requests are dropped."""
        if pairs := self._table.match(events):
            self._queue.put(pairs)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            batch = self._queue.get()
            gathered: Pairs = []
            while batch is not None:
                gathered += batch
                if len(gathered) >= _MAX_GATHERED:
                    break
                try:
                    batch = self._queue.get_nowait()
                except queue.Empty:
                    break
            stopping = batch is None
            if gathered:
                self._send_safely(gathered)

    def _send_safely(self, pairs: Pairs) -> None:
        try:
            self._send(pairs)
        except Exception:
            logger.exception("sending %d events failed", len(pairs))
        jobs: dict[RunningJob, int] = defaultdict(int)
        for entry, event in pairs:
            if isinstance(event, Delta):
                continue
            self._on_turn(entry, event)
            if is_end(event):
                jobs[entry.parent] += 1
        for job, count in jobs.items():
            job.count_sent(count)

    def _send(self, pairs: Pairs) -> None:
        webs: dict[str, list[RequestEvent]] = defaultdict(list)
        ended: dict[str, list[str]] = defaultdict(list)
        taken: dict[str, int] = {}
        for entry, event in pairs:
            job = entry.parent.job
            webs[job.reply_to].append(event)
            if is_end(event):
                ended[job.model_id].append(entry.request_id)
                if job.budgeted:
                    taken[entry.request_id] = _tokens_of(entry, event)
        frames = {web_id: self._frame(web_id, events) for web_id, events in webs.items()}
        give_up = time.monotonic() + _GIVE_UP_SECONDS
        while True:
            try:
                self._execute(frames, ended, taken)
            except redis.RedisError as error:
                if time.monotonic() > give_up:
                    raise
                logger.warning("replies wait for Redis: %s", error)
                time.sleep(0.2)
            else:
                return

    def _frame(self, web_id: str, events: list[RequestEvent]) -> bytes:
        self._sequences[web_id] += 1
        return Frame(self._worker_id, self._backend, self._sequences[web_id], tuple(events)).encode()

    def _execute(self, frames: dict[str, bytes], ended: dict[str, list[str]], taken: dict[str, int]) -> None:
        with sync_redis().pipeline(transaction=False) as pipe:
            if taken:  # first, so that who has the answer finds the budget settled
                budgets.settle_in(pipe, taken)
            for web_id, data in frames.items():
                pipe.xadd(keys.reply_stream(web_id), {b"f": data}, maxlen=_MAX_STREAM_LENGTH, nomkstream=True)
            for model_id, request_ids in ended.items():
                leave_in(pipe, model_id, request_ids)
            pipe.execute()


def _tokens_of(entry: Running, end: RequestEvent) -> int:
    """What a request costs: what was read and generated; nothing if it failed, unless by what it made the model say."""
    if isinstance(end, Finished):
        return end.prompt_tokens + end.completion_tokens
    is_blocked = isinstance(end, Failed) and end.code == ContentBlocked.code
    return entry.prompt_tokens + entry.completion_tokens if is_blocked else 0
