"""What a worker has taken and not ended: its jobs, and the requests in them."""

import queue
import threading
import time
from collections.abc import Iterable

from engine.messages import Accepted, Delta, Failed, Finished, RequestEvent
from inference.messages import Job
from inference.plugged_in import PluggedIn
from models_mgmt.engines import Engine


class RunningJob:
    """A job in work. `done` is set once the ends of all its requests have been sent. `taken_time`: seconds from its
    submission until this worker took it.

    The job's times are Redis' time; from when it was begun, this host's steady clock goes on from there.
    `inbox` takes what plugins have to filter first, and None when all is done.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.done = threading.Event()
        self.taken_time = 0.0
        self.entries: list[Running] = []
        self.inbox: queue.SimpleQueue[tuple[Running, RequestEvent] | None] = queue.SimpleQueue()
        self._submitted = time.monotonic()
        self._left = len(job.requests)
        self._lock = threading.Lock()

    def began(self, now: float) -> None:
        """Take the time: `now` is Redis'."""
        self.taken_time = max(0.0, now - self.job.submitted_at)
        self._submitted = time.monotonic() - self.taken_time

    @property
    def age(self) -> float:
        """Seconds since the job was submitted."""
        return time.monotonic() - self._submitted

    @property
    def seconds_left(self) -> float:
        """Until its deadline; below 0 after it."""
        return self.job.seconds - self.age

    def count_sent(self, ends: int) -> None:
        with self._lock:
            self._left -= ends
            if self._left <= 0:
                self.done.set()
                self.inbox.put(None)


class Running:
    """One request in work. `cancelled` holds the reason once somebody wants its end, `end` the end it came to.

    `completion_tokens` is known while plugins filter the answer. `accept_time`: seconds from submission until an engine
    accepted it; `prepared_time`: until the plugins before it had run.
    """

    __slots__ = (
        "accept_time",
        "cancelled",
        "completion_tokens",
        "end",
        "engine",
        "index",
        "parent",
        "plugged",
        "prepared_time",
        "prompt_tokens",
        "request_id",
    )

    def __init__(self, parent: RunningJob, index: int, request_id: str) -> None:
        self.parent = parent
        self.index = index
        self.request_id = request_id
        self.engine: Engine | None = None
        self.cancelled = ""
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.accept_time = 0.0
        self.prepared_time = 0.0
        self.plugged: PluggedIn | None = None
        self.end: RequestEvent | None = None

    def cancel(self, reason: str) -> None:
        """Ask for the end; a request that its engine doesn't have yet is checked again after it was submitted."""
        self.cancelled = self.cancelled or reason
        if self.engine is not None:
            self.engine.abort(self.request_id)


class RunningTable:
    """Every request in work, by its id; the one place that makes sure each has one end."""

    def __init__(self) -> None:
        self._requests: dict[str, Running] = {}
        self._lock = threading.Lock()

    def add(self, job: Job) -> tuple[RunningJob, list[Running]]:
        """Take a job's requests up. Raises KeyError when they are here already."""
        parent = RunningJob(job)
        entries = [Running(parent, index, request.request_id) for index, request in enumerate(job.requests)]
        parent.entries = entries
        with self._lock:
            if any(entry.request_id in self._requests for entry in entries):
                raise KeyError(job.job_id)
            self._requests.update((entry.request_id, entry) for entry in entries)
        return parent, entries

    def match(self, events: Iterable[RequestEvent]) -> list[tuple[Running, RequestEvent]]:
        """Pair events with their requests; ended ones leave the table, events of unknown ones are dropped."""
        pairs: list[tuple[Running, RequestEvent]] = []
        with self._lock:
            for event in events:
                if isinstance(event, Accepted | Delta):
                    entry = self._requests.get(event.request_id)
                    if entry is not None and isinstance(event, Accepted):
                        entry.prompt_tokens = event.prompt_tokens
                        entry.accept_time = entry.parent.age
                else:
                    entry = self._requests.pop(event.request_id, None)
                    if entry is not None:
                        entry.end = event
                        if isinstance(event, Finished) and entry.accept_time:
                            # An engine's step that accepts and runs a request tells both at its end.
                            accepted = max(entry.prepared_time, entry.parent.age - event.engine_time)
                            entry.accept_time = min(entry.accept_time, accepted)
                if entry is not None:
                    pairs.append((entry, event))
        return pairs

    def find(self, request_ids: Iterable[str]) -> list[Running]:
        with self._lock:
            return [entry for request_id in request_ids if (entry := self._requests.get(request_id)) is not None]

    def all(self) -> list[Running]:
        with self._lock:
            return list(self._requests.values())

    def __len__(self) -> int:
        return len(self._requests)


def is_end(event: RequestEvent) -> bool:
    return isinstance(event, Finished | Failed)


def cancelled_end(entry: Running) -> Finished:
    """The end of a request that was cancelled before an engine had it."""
    return Finished(
        request_id=entry.request_id,
        text="",
        delta="",
        finish_reason="cancelled",
        prompt_tokens=entry.prompt_tokens,
        completion_tokens=0,
        cached_tokens=0,
        queue_time=0.0,
        prefill_time=0.0,
        decode_time=0.0,
    )
