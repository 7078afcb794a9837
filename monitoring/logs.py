"""Keeps the log of all processes in the database and tells of it, on a thread: to log never waits for either."""

import atexit
import json
import logging
import queue
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import DatabaseError, close_old_connections, connection

from common.events import LogEvent, publish
from common.logging import RequestIdFilter, component_of, redacted
from monitoring.models import LogEntry

_GATHER_SECONDS = 1.0
_BATCH = 500
_MOST_TOLD = 100  # of the lines of one second
MAX_WAITING = 10_000
MAX_MESSAGE = 4_000
_STOP_SECONDS = 3.0
# Statements with their parameters, and one for each line that is kept.
_LEFT_OUT = "django.db.backends"


class DatabaseHandler(logging.Handler):
    """Gathers lines and writes them every second; `process` names this process, such as `web` or `worker-cuda0`.

    At most MAX_WAITING lines wait. What comes beyond that, while the database is slow or away, is dropped; how many
    that were is logged once there is room again.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self.addFilter(RequestIdFilter())
        self._process = process
        self._host = settings.WORKER_HOST
        self._queue: queue.SimpleQueue[LogEntry] = queue.SimpleQueue()
        self._waiting: list[LogEntry] = []
        self._dropped = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what is left, then take no more."""
        if self._thread.is_alive():
            self._stopping.set()
            self._thread.join(_STOP_SECONDS)
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread.ident or record.name.startswith(_LEFT_OUT):
            return  # or writing lines would make lines
        if self._queue.qsize() + len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        try:
            self._queue.put(self._entry(record))
        except Exception:  # noqa: BLE001  # logging's own way: a line that can't be made hurts nobody
            self.handleError(record)

    def flush_once(self) -> None:
        """Write what has gathered. Lines that can't be written now stay, to be tried again."""
        while not self._queue.empty():
            self._waiting.append(self._queue.get())
        if dropped := self._dropped:
            self._dropped -= dropped
            self._waiting.append(self._note(f"{dropped} lines were dropped, since they could not be written in time"))
        while batch := self._waiting[:_BATCH]:
            for entry in batch:
                entry.pk = None  # an attempt that was rolled back may have left one
            LogEntry.objects.bulk_create(batch)
            del self._waiting[:_BATCH]
            _tell(batch)

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._stopping.wait(_GATHER_SECONDS)
            try:
                close_old_connections()
                self.flush_once()
            except DatabaseError as error:
                print(f"{len(self._waiting)} lines of the log wait for the database: {error}", file=sys.stderr)
            except Exception as error:  # noqa: BLE001  # whatever it is, the next lines must not be lost for it
                print(f"{len(self._waiting)} lines of the log were lost: {error!r}", file=sys.stderr)
                self._waiting.clear()
        connection.close()

    def _entry(self, record: logging.LogRecord) -> LogEntry:
        return LogEntry(
            at=datetime.fromtimestamp(record.created, UTC),
            level=max(logging.DEBUG, min(logging.ERROR, record.levelno // 10 * 10)),
            component=component_of(record.name)[:64],
            logger=record.name[:200],
            message=redacted(record.getMessage())[:MAX_MESSAGE].replace("\0", ""),
            metadata=_metadata(record),
            request_id=getattr(record, "request_id", "")[:64],
            host=self._host,
            process=self._process,
        )

    def _note(self, message: str) -> LogEntry:
        return self._entry(logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, (), None))


def keep_log(process: str) -> None:
    """Begin to keep the log of this process, a part of the server; its lines go to stdout from now on."""
    settings.LOGGING_CONFIG = None  # Celery sets Django up once more, which would set logging up anew, without us
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            handler.setStream(sys.stdout)
    keeper = DatabaseHandler(process)
    keeper.start()
    root.addHandler(keeper)
    atexit.register(keeper.close)


def _metadata(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says beside its message; of an exception, its kind."""
    metadata: dict[str, Any] = dict(getattr(record, "metadata", None) or {})
    if record.exc_info and record.exc_info[0] is not None:
        metadata["exception"] = record.exc_info[0].__name__
    return dict(json.loads(redacted(json.dumps(metadata, default=str)))) if metadata else {}


def _tell(entries: Sequence[LogEntry]) -> None:
    """Publish the lines from `info` up; of very many, the last ones."""
    told = [entry for entry in entries if entry.level >= logging.INFO][-_MOST_TOLD:]
    publish(
        *(
            LogEvent(
                level=str(LogEntry.Level(entry.level).label),
                component=entry.component,
                message=entry.message,
                host=entry.host,
                request_id=entry.request_id,
                metadata=entry.metadata,
            )
            for entry in told
        )
    )
