"""Writes the requests' records and log lines, in batches, on a thread of its own."""

import logging
import queue
import threading
import time
from datetime import UTC, datetime

from django.db import DatabaseError, close_old_connections, connection

from engine.messages import Failed, Finished, RequestEvent
from inference import request_telemetry
from inference.keeping import keep, log
from inference.models import RequestRecord
from inference.request_telemetry import Ended
from inference.running import Running

logger = logging.getLogger(__name__)

_GATHER_SECONDS = 0.5
_BATCH = 200
_ATTEMPTS = 3


class Recorder:
    """Takes ended requests; a database that fails costs records, never answers."""

    def __init__(self, worker: str, backend: str) -> None:
        self._worker = worker
        self._backend = backend
        self._queue: queue.SimpleQueue[Ended | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, then end."""
        self._queue.put(None)
        self._thread.join(5.0)

    def put(self, entry: Running, end: RequestEvent) -> None:
        self._queue.put(Ended(self._record(entry, end), entry.parent.job.trace))

    def _record(self, entry: Running, end: RequestEvent) -> RequestRecord:
        job = entry.parent.job
        record = RequestRecord(
            request_id=job.request_id,
            item=entry.index,
            user_id=job.user_id,
            key_id=job.key_id,
            model=job.model_id,
            kind=job.kind,
            state=RequestRecord.State.FAILED,
            cancel_reason=entry.cancelled,
            backend=self._backend,
            worker=self._worker,
            prompt_tokens=entry.prompt_tokens,
            auth_time=job.auth_time,
            door_time=job.door_time,
            taken_time=entry.parent.taken_time,
            prepared_time=entry.prepared_time,
            accept_time=entry.accept_time,
            total_time=entry.parent.age,
            created_at=datetime.fromtimestamp(job.submitted_at, UTC),
            plugins=entry.plugged.run.timings() if entry.plugged is not None else {},
        )
        if isinstance(end, Failed):
            record.error_code = end.code
            record.completion_tokens = entry.completion_tokens
        elif isinstance(end, Finished):
            cancelled = end.finish_reason == "cancelled"
            record.state = RequestRecord.State.CANCELLED if cancelled else RequestRecord.State.COMPLETED
            record.finish_reason = end.finish_reason
            record.completion_tokens = end.completion_tokens
            record.cached_tokens = end.cached_tokens
            record.queue_time = end.queue_time
            record.prefill_time = end.prefill_time
            record.decode_time = end.decode_time
        return record

    def _run(self) -> None:
        stopping = False
        while not stopping:
            items = [self._queue.get()]
            if items[0] is not None:
                time.sleep(_GATHER_SECONDS)  # cheaper than to be woken for each
            while not self._queue.empty():
                items.append(self._queue.get())
            stopping = None in items
            records = [item.record for item in items if item is not None]
            self._tell([item for item in items if item is not None])
            for at in range(0, len(records), _BATCH):
                self._write(records[at : at + _BATCH])
        connection.close()

    def _tell(self, ended: list[Ended]) -> None:
        """Count and trace, whatever the database does."""
        try:
            for item in ended:
                request_telemetry.count(item.record)
                request_telemetry.trace(item.record, item.trace, item.at)
        except Exception:
            logger.exception("requests could not be counted or traced")

    def _write(self, records: list[RequestRecord]) -> None:
        for record in records:
            log(record)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                close_old_connections()
                for record in records:
                    record.pk = None  # an attempt that was rolled back has left one
                keep(records)
            except DatabaseError:
                logger.warning("%d records could not be written, attempt %d", len(records), attempt, exc_info=True)
                time.sleep(attempt * 0.5)
            except Exception:
                logger.exception("%d records could not be written", len(records))
                return
            else:
                return
