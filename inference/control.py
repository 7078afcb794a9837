"""Hears of cancelled requests and ends them in this worker."""

import logging
import threading
import time
from typing import Any, cast

import msgspec
import redis

from common.redis import sync_redis
from inference import keys
from inference.messages import decode_cancel
from inference.running import RunningTable

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


class ControlListener:
    """A thread on the control channel of this worker's queue."""

    def __init__(self, queue: str, table: RunningTable) -> None:
        self._channel = keys.control_channel(queue)
        self._table = table
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except redis.RedisError as error:
                logger.warning("the control channel is lost: %s", error)
                time.sleep(0.5)
            except Exception:
                logger.exception("the control channel failed")
                time.sleep(0.5)

    def _listen(self) -> None:
        with cast("Any", sync_redis()).pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(self._channel)
            self._catch_up()
            while not self._stopping.is_set():
                message = pubsub.get_message(timeout=_POLL_SECONDS)
                if message is not None:
                    self._handle(message["data"])

    def _handle(self, data: bytes) -> None:
        try:
            cancel = decode_cancel(data)
        except msgspec.DecodeError:
            logger.exception("a message on the control channel can't be read")
            return
        for entry in self._table.find(cancel.request_ids):
            entry.cancel(cancel.reason)

    def _catch_up(self) -> None:
        """Cancel what was cancelled while nobody listened."""
        if entries := self._table.all():
            names = [keys.cancelled(entry.request_id) for entry in entries]
            reasons = cast("list[Any]", sync_redis().mget(names))
            for entry, reason in zip(entries, reasons, strict=True):
                if reason is not None:
                    entry.cancel(reason.decode())
