"""Telling every worker that something about the plugins has changed."""

import logging

import redis

from common.redis import sync_redis
from plugins_app.selectors import version_key

logger = logging.getLogger(__name__)


def announce_change() -> int | None:
    """Call it after the change is committed. Returns the version that the workers have to come to.

    Without Redis there is none; the workers read the change a few seconds later by themselves.
    """
    try:
        version: int = sync_redis().incr(version_key())
    except redis.RedisError as error:
        logger.warning("the change of a plugin could not be announced: %s", error)
        return None
    return version
