"""Announces this worker twice a second, and ends the requests of web processes that are gone."""

import logging
import threading
from collections.abc import Callable

import redis
from django.conf import settings

from common.redis import sync_redis
from inference import keys
from inference.running import RunningTable
from models_mgmt.presence import WorkerReport, announce, withdraw

logger = logging.getLogger(__name__)

_ORPHAN_BEATS = 2


class Heartbeat:
    """A thread that calls `report` and announces what it returns."""

    def __init__(self, table: RunningTable, report: Callable[[], WorkerReport]) -> None:
        self._table = table
        self._report = report
        self._stopping = threading.Event()
        self._due = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def beat_now(self) -> None:
        """Announce a change without waiting for the next beat."""
        self._due.set()

    def stop(self) -> None:
        """Stop announcing and withdraw."""
        self._stopping.set()
        self._due.set()
        self._thread.join(2.0)
        try:
            withdraw(self._report())
        except redis.RedisError as error:
            logger.warning("the worker could not sign off: %s", error)

    def _run(self) -> None:
        beats = 0
        while not self._stopping.is_set():
            try:
                announce(self._report())
                if beats % _ORPHAN_BEATS == 0:
                    self._end_orphans()
            except redis.RedisError as error:
                logger.warning("no heartbeat: %s", error)
            except Exception:
                logger.exception("the heartbeat failed")
            beats += 1
            self._due.wait(settings.WORKER_HEARTBEAT_SECONDS)
            self._due.clear()

    def _end_orphans(self) -> None:
        entries = self._table.all()
        webs = sorted({entry.parent.job.reply_to for entry in entries})
        if not webs:
            return
        with sync_redis().pipeline(transaction=False) as pipe:
            for web_id in webs:
                pipe.exists(keys.reply_stream(web_id))
            gone = {web_id for web_id, exists in zip(webs, pipe.execute(), strict=True) if not exists}
        for entry in entries:
            if entry.parent.job.reply_to in gone and not entry.cancelled:
                entry.cancel("disconnected")
