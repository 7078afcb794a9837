"""Tells whoever watches how requests begin and end, in batches, on a thread of its own."""

import logging
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

from django.conf import settings

from common.events import (
    AnyEvent,
    InferenceCancelled,
    InferenceCompleted,
    InferenceFailed,
    InferenceStarted,
    publish,
)
from engine.messages import Accepted, Failed, Finished, RequestEvent
from inference.running import Running

logger = logging.getLogger(__name__)

# Watchers hear of it so much later at most; cheaper than to be woken for each.
_GATHER_SECONDS = 0.05
_BATCH = 200
_DIGITS = 4


class EventPublisher:
    """Takes what happens to requests. Publishing never fails: without Redis, news are lost, and logged."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._queue: queue.SimpleQueue[AnyEvent | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Publish what is left, then end."""
        self._queue.put(None)
        self._thread.join(5.0)

    def put(self, entry: Running, event: RequestEvent) -> None:
        """Tell of a request that was accepted or has ended."""
        if (told := inference_event(entry, event, self._backend)) is not None:
            self._queue.put(told)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            gathered = [self._queue.get()]
            if gathered[0] is not None:
                time.sleep(_GATHER_SECONDS)
            gathered += self._waiting()
            stopping = None in gathered
            events = [event for event in gathered if event is not None]
            for at in range(0, len(events), _BATCH):
                publish(*events[at : at + _BATCH])

    def _waiting(self) -> Iterator[AnyEvent | None]:
        while True:
            try:
                yield self._queue.get_nowait()
            except queue.Empty:
                return


def inference_event(entry: Running, event: RequestEvent, backend: str) -> AnyEvent | None:
    """What is told of a request's event; None for one that nobody is told of."""
    job = entry.parent.job
    about: dict[str, Any] = {
        "request_id": job.request_id,
        "item": entry.index,
        "model": job.model_id,
        "kind": job.kind,
        "user_id": job.user_id,
    }
    if isinstance(event, Accepted):
        return InferenceStarted(**about, backend=backend, prompt_tokens=event.prompt_tokens)
    if isinstance(event, Failed):
        return InferenceFailed(**about, code=event.code, error=event.message)
    if not isinstance(event, Finished):
        return None
    if event.finish_reason == "cancelled":
        return InferenceCancelled(
            **about, reason=entry.cancelled or "shutdown", tokens_generated=event.completion_tokens
        )
    return InferenceCompleted(
        **about,
        backend=backend,
        prompt_tokens=event.prompt_tokens,
        tokens_generated=event.completion_tokens,
        inference_time=round(event.prefill_time + event.decode_time, _DIGITS),
        queue_time=round(entry.accept_time + event.queue_time, _DIGITS),
        time_to_first_token=round(job.door_time + entry.accept_time + event.time_to_first_token, _DIGITS),
        finish_reason=event.finish_reason,
        generated_text=event.text[: settings.EVENT_TEXT_CHARACTERS],
        is_text_cut=len(event.text) > settings.EVENT_TEXT_CHARACTERS,
    )
