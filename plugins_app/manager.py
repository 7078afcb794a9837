"""The plugins of one worker process: follows what is decided in the database, and hands out the chain to run.

Web processes need none: they read the database whenever they are asked.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterable
from typing import Any

import redis
from django.db import DatabaseError, close_old_connections, connection

from common.redis import sync_redis
from plugins_app import discovery, followers
from plugins_app.breaker import Breaker
from plugins_app.chain import Chain, Failure, Link
from plugins_app.failures import record
from plugins_app.hookspecs import InvalidSettings
from plugins_app.loaded import LoadedPlugin, LoadError, load
from plugins_app.models import Plugin
from plugins_app.selectors import in_use, version_key

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
_REREAD_SECONDS = 10.0  # without being told, should the word get lost
_RETRY_SECONDS = 0.5


class Held:
    """A loaded plugin with how many chains hold it; torn down when none does any more."""

    def __init__(self, plugin: LoadedPlugin, row: Plugin) -> None:
        self.plugin = plugin
        self.settings: dict[str, Any] = row.settings
        self.breaker = Breaker(max_failures=row.max_failures, retry_seconds=row.retry_seconds)
        self.chains = 0


class PluginManager:
    """`take` and `give_back` are called by many threads, the rest by one of its own. `worker` is how others know it."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._chain: Chain | None = None
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self._holds: dict[Chain, tuple[Held, ...]] = {}
        self._failures: queue.SimpleQueue[Failure] = queue.SimpleQueue()
        self._broken: dict[str, str] = {}
        self._version: bytes | None = None
        self._read_at = float("-inf")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="plugins", daemon=True)

    def start(self) -> None:
        """Load what is to be loaded, waiting for the database if need be: nothing runs past a filter that is not there
        yet. Then follow changes."""
        while not self._stopping.is_set():
            try:
                self._apply(in_use())
                self._follow_safely()  # so that others know of this worker from now on
                break
            except DatabaseError:
                logger.warning("the plugins wait for the database", exc_info=True)
                self._stopping.wait(_RETRY_SECONDS)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5.0)
        self._apply(())
        followers.leave(self._worker)

    def take(self, count: int = 1) -> Chain | None:
        """The chain for so many requests that begin now, each of which gives it back once; None if there is nothing to
        run."""
        if self._chain is None:
            return None
        with self._lock:
            chain = self._chain
            if chain is not None:
                chain.users += count
            return chain

    def give_back(self, chain: Chain) -> None:
        with self._lock:
            chain.users -= 1
            done = self._released(chain)
        for plugin in done:
            plugin.tear_down()

    # ------------------------------------------------------------ following

    def _run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            self._follow_safely()
        connection.close()

    def _follow_safely(self) -> None:
        try:
            self._write_failures()
            self._follow()
        except redis.RedisError as error:
            logger.warning("the plugins can't be followed: %s", error)
        except DatabaseError:
            logger.warning("the plugins can't be read", exc_info=True)
        except Exception:
            logger.exception("following the plugins failed")

    def _follow(self) -> None:
        with sync_redis().pipeline(transaction=False) as pipe:
            pipe.get(version_key())
            pipe.time()
            version, (seconds, _) = pipe.execute()
        if version != self._version or time.monotonic() - self._read_at >= _REREAD_SECONDS:
            close_old_connections()
            self._apply(in_use())
            self._version = version
            self._read_at = time.monotonic()
        followers.tell(self._worker, version=int(version or 0), at=seconds, broken=self._broken)

    def _write_failures(self) -> None:
        found: list[Failure] = []
        while not self._failures.empty():
            found.append(self._failures.get())
        if found:
            close_old_connections()
            record(found)

    # ------------------------------------------------------------ the chain

    def _apply(self, rows: Iterable[Plugin]) -> None:
        """Make the rows' chain the current one; what is as it was is not loaded again."""
        links: list[Link] = []
        held: dict[str, Held] = {}
        unavailable: list[str] = []
        broken: dict[str, str] = {}
        for row in rows:
            one = self._load(row)
            if isinstance(one, str):
                broken[row.id] = one
                if row.enabled and row.on_error == Plugin.OnError.CLOSED:
                    unavailable.append(row.id)
                continue
            held[row.id] = one
            one.breaker.max_failures, one.breaker.retry_seconds = row.max_failures, row.retry_seconds
            opened_at = row.circuit_opened_at if row.circuit == Plugin.Circuit.OPEN else None
            one.breaker.follow(opened_at.timestamp() if opened_at else None)
            if row.enabled:
                is_closed = row.on_error == Plugin.OnError.CLOSED
                limits = row.slow_seconds, row.timeout_seconds
                links.append(Link(one.plugin, one.breaker, is_closed, *limits, self._failures.put))
        self._broken = broken
        self._put_up(Chain(links, unavailable) if links or unavailable else None, held)

    def _load(self, row: Plugin) -> Held | str:
        """The plugin as it is, or set up now; the error if that can't be done."""
        held = self._held.get(row.id)
        if held is not None and held.settings == row.settings:
            return held
        found = discovery.installed().get(row.id)
        try:
            if found is None:
                raise LoadError("its package is not installed on this host")
            plugin = load(found, row.settings)
        except InvalidSettings as error:
            public = sentence = f"its setting {error.field} is not valid"
        except LoadError as error:
            public, sentence = error.public, str(error)
        else:
            logger.info("plugin %s loaded in %.3f s", row.id, plugin.load_time)
            return Held(plugin, row)
        if self._broken.get(row.id) != sentence:  # told once, not at each reading
            logger.error("plugin %s can't be loaded: %s", row.id, public)
            self._failures.put(Failure(row.id, f"It could not be loaded by a worker: {public}"))
        return sentence

    def _put_up(self, chain: Chain | None, held: dict[str, Held]) -> None:
        with self._lock:
            before, self._chain = self._chain, chain
            gone = [one for plugin_id, one in self._held.items() if held.get(plugin_id) is not one]
            self._held = held
            if chain is not None:
                # Those that are not enabled too: they stay set up as long as they are loaded.
                self._holds[chain] = tuple(held.values())
                for one in held.values():
                    one.chains += 1
            done = self._released(before) if before is not None else []
            done += [one.plugin for one in gone if one.chains == 0 and one.plugin not in done]
        for plugin in done:
            plugin.tear_down()

    def _released(self, chain: Chain) -> list[LoadedPlugin]:
        """Drop a chain that nobody uses and that is not the current one; returns the plugins to tear down."""
        if chain.users > 0 or chain is self._chain or chain not in self._holds:
            return []
        done: list[LoadedPlugin] = []
        for one in self._holds.pop(chain):
            one.chains -= 1
            if one.chains == 0 and self._held.get(one.plugin.info.id) is not one:
                done.append(one.plugin)
        return done
