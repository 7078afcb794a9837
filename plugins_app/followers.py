"""What each worker has made of the plugins: told by the workers, waited for by whoever changes something.

A hash in Redis holds one entry per worker, written anew at every look; an old one belongs to a worker that is gone.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import redis

from common.redis import key, sync_redis

logger = logging.getLogger(__name__)

WAIT_SECONDS = 2.0
_LOOK_SECONDS = 0.05
# A worker that sets a slow plugin up is silent meanwhile.
_GONE_SECONDS = 5.0
_FORGOTTEN_SECONDS = 600.0


class Followed(msgspec.Struct, frozen=True):
    """A worker runs what was decided up to `version`, but for what is `broken`: errors by the plugins' ids.

    `at`: when it said so, in Redis' time.
    """

    version: int
    at: float
    broken: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a worker could not load a plugin."""

    worker: str
    error: str


def tell(worker: str, *, version: int, at: float, broken: Mapping[str, str]) -> None:
    """Say how far a worker has followed. Raises redis' RedisError."""
    sync_redis().hset(_name(), worker, msgspec.json.encode(Followed(version, at, dict(broken))))


def leave(worker: str) -> None:
    """A worker that ends is waited for no longer."""
    try:
        sync_redis().hdel(_name(), worker)
    except redis.RedisError as error:
        logger.debug("the plugins' follower %s could not say that it ends: %s", worker, error)


def wait_for_workers(plugin_id: str, version: int) -> Trouble | None:
    """Wait until every living worker has followed up to a version, or until one could not load the plugin.

    Not longer than WAIT_SECONDS, and not at all without Redis: what a worker finds later, it tells as the plugin's
    last error.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            workers = _living()
        except redis.RedisError as error:
            logger.warning("the workers' plugins can't be read: %s", error)
            return None
        done = {name: followed for name, followed in workers.items() if followed.version >= version}
        for name, followed in done.items():
            if plugin_id in followed.broken:
                return Trouble(name, followed.broken[plugin_id])
        if len(done) == len(workers):
            return None
        if time.monotonic() > deadline:
            missing = ", ".join(sorted(workers.keys() - done.keys()))
            logger.warning("the plugin %s is not confirmed yet by %s", plugin_id, missing)
            return None
        time.sleep(_LOOK_SECONDS)


def _living() -> dict[str, Followed]:
    with sync_redis().pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.hgetall(_name())
        (seconds, _), entries = pipe.execute()
    found = {name.decode(): msgspec.json.decode(entry, type=Followed) for name, entry in entries.items()}
    for name, followed in found.items():
        if seconds - followed.at > _FORGOTTEN_SECONDS:
            sync_redis().hdel(_name(), name)
    return {name: followed for name, followed in found.items() if seconds - followed.at <= _GONE_SECONDS}


def _name() -> str:
    return key("plugins", "followers")
