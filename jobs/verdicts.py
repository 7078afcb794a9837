"""What an item's error means: that it has failed, that it is tried again, or that its whole job has to wait."""

from datetime import timedelta
from typing import Literal

import redis

from common.errors import (
    ApiError,
    BackendUnavailable,
    InferenceFailed,
    InsufficientMemory,
    InternalError,
    ModelLoadFailed,
    RateLimitExceeded,
)

Verdict = Literal["failed", "again", "later"]

MAX_ATTEMPTS = 5
_LONGEST_PAUSE = 30.0
# A budget's window may end much later, but what is reserved of it may be given back at any time.
_LOOK_AGAIN_SECONDS = 10.0
_LATER = (BackendUnavailable, InsufficientMemory, RateLimitExceeded, redis.RedisError)
_AGAIN = (InferenceFailed, ModelLoadFailed, InternalError)


def verdict(error: Exception, attempts: int) -> Verdict:
    """`attempts`: how often the item has been tried before. What the caller's words are the cause of has failed."""
    if isinstance(error, _LATER):
        return "later"
    if isinstance(error, _AGAIN) or not isinstance(error, ApiError):
        return "again" if attempts + 1 < MAX_ATTEMPTS else "failed"
    return "failed"


def pause_before(attempt: int) -> timedelta:
    """How long an item rests before it is tried for the so-many-th time, the first one after a failure being 1."""
    return timedelta(seconds=min(0.25 * 2**attempt, _LONGEST_PAUSE))


def wait_of(error: Exception) -> tuple[str, float]:
    """What a job waits for, and for how many seconds until it looks again."""
    if isinstance(error, RateLimitExceeded):
        return "token_budget", min(error.retry_after or _LOOK_AGAIN_SECONDS, _LOOK_AGAIN_SECONDS)
    if isinstance(error, InsufficientMemory):
        return "memory", _LOOK_AGAIN_SECONDS
    return "workers", float(getattr(error, "retry_after", None) or 1)


def shown(error: Exception) -> ApiError:
    """The error that an item ends with."""
    return error if isinstance(error, ApiError) else InternalError()
