"""Telling every worker that something about the plugins has changed."""

import logging

import redis

from common.redis import sync_redis
from plugins_app.selectors import version_key

logger = logging.getLogger(__name__)


def announce_change() -> None:
    """Call it after the change is committed. Without Redis the workers read it a few seconds later by themselves."""
    try:
        sync_redis().incr(version_key())
    except redis.RedisError as error:
        logger.warning("the change of a plugin could not be announced: %s", error)
