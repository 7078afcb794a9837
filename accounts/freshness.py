"""How every process learns within a second that users or keys have changed.

Each change puts a new random mark into Redis. A process that remembers callers reads the mark at most CHECK_SECONDS
before it believes its memory, and disbelieves what it learned under another mark. While Redis doesn't answer, nothing
remembered counts.
"""

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from django.db import transaction
from redis.exceptions import RedisError

from common.redis import key, redis_line, sync_redis

logger = logging.getLogger(__name__)
CHECK_SECONDS = 0.5


class _LastRead:
    """The mark as this process last read it, and when."""

    mark = b""
    at = float("-inf")


class _Listeners:
    """Whether anybody may remember callers; see `before_anybody_listens`."""

    may_exist = True


_last_read = _LastRead()


def announce_change() -> None:
    """Tell all processes to look their callers up again, once the running transaction is committed."""
    transaction.on_commit(_renew_mark)


async def current_mark() -> bytes | None:
    """The mark, as it was at most CHECK_SECONDS ago; None while Redis cannot be asked."""
    asked_at = time.monotonic()
    if asked_at - _last_read.at >= CHECK_SECONDS:
        try:
            mark = cast("bytes | None", await redis_line().execute("GET", _key())) or b""
        except RedisError:
            return None
        _last_read.mark, _last_read.at = mark, asked_at
    return _last_read.mark


@contextmanager
def before_anybody_listens() -> Iterator[None]:
    """For the start of a whole server: no process remembers anything yet, nor is there a Redis of its own to tell."""
    _Listeners.may_exist = False
    try:
        yield
    finally:
        _Listeners.may_exist = True


def forget_mark() -> None:
    """Read it anew at the next question."""
    _last_read.at = float("-inf")


def _renew_mark() -> None:
    forget_mark()
    if not _Listeners.may_exist:
        return
    try:
        sync_redis().set(_key(), secrets.token_hex(8))
    except RedisError as error:
        # The change stands. Without Redis no request is let in; when it is back, memories are a few seconds old.
        logger.error("A change to users or keys could not be announced: %s", type(error).__name__)


def _key() -> str:
    return key("accounts", "mark")
