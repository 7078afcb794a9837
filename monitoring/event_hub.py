"""Brings the events to this process's watchers: one reader of the streams, however many watch.

The hub knows nothing of Socket.IO or websockets; those make a Watcher of each connection. It never waits for one.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings
from redis.exceptions import RedisError

from accounts.caller import Caller
from accounts.freshness import current_mark
from common.errors import ApiError, AuthenticationFailed, BackendUnavailable, PermissionDenied
from common.event_reader import BEGINNING, Recorded, last_id, next_events, place_of, read_back
from common.events import Channel
from common.redis import new_redis_line
from monitoring.event_views import News, View
from monitoring.subscriptions import MAX_REPLAY, Subscribe, Unsubscribe, decide, needed_permission

logger = logging.getLogger(__name__)

# Messages that wait for a connection which takes nothing; at one more it is cut off.
BACKLOG = 1_000
# Between two looks whether the watchers may still watch, and the longest that one goes without being identified anew.
GUARD_SECONDS = 0.5
IDENTIFY_SECONDS = 30.0
# Sockets that are written to without a pause for the process's other work.
_STRIDE = 50
_CHUNK = 200
_REPLAYS_AT_ONCE = 2
_RETRY_SECONDS = 0.5


class Watcher(ABC):
    """One connection that watches. Its methods are called on the event loop and must not block."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        # What it watches, each from after an event.
        self.channels: dict[Channel, tuple[int, int]] = {}
        self.identified_at = time.monotonic()
        self.mark: bytes | None = None
        self.turn = asyncio.Lock()
        self._held: list[News] | None = None

    @abstractmethod
    def send(self, view: View) -> None:
        """Send a message, or keep it until the connection takes it; cut off a connection that takes nothing."""

    @abstractmethod
    def cut_off(self, error: ApiError) -> None:
        """End the connection."""

    @abstractmethod
    async def identify(self) -> Caller | None:
        """Whose connection it is now."""

    def take(self, news: News) -> None:
        """Send an event if it is watched, and for this caller."""
        since = self.channels.get(news.channel)
        if since is None or news.place <= since or not news.is_for(self.caller):
            return
        if self._held is None:
            self.send(news.view(self.caller))
        elif len(self._held) < BACKLOG:
            self._held.append(news)
        else:
            self.cut_off(slow())

    def hold(self) -> None:
        """Keep what comes until `release`, while older events are read."""
        self._held = []

    def release(self) -> None:
        held, self._held = self._held, None
        for news in held or ():
            self.take(news)


class EventHub:
    """The watchers of one event loop."""

    def __init__(self) -> None:
        self._watchers: dict[Watcher, None] = {}
        self._after = BEGINNING
        self._opening = asyncio.Lock()
        self._replaying = asyncio.Semaphore(_REPLAYS_AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        return len(self._watchers)

    async def join(self, watcher: Watcher) -> None:
        """Take a connection in. Raises BackendUnavailable if there are too many, or Redis is away."""
        if len(self._watchers) >= settings.MAX_WATCHERS:
            raise BackendUnavailable("Too many connections watch already; try again later.", retry_after=10)
        async with self._opening:
            if not self._tasks:
                try:
                    self._after = await last_id()
                except RedisError:
                    raise BackendUnavailable(retry_after=1) from None
                self._tasks = [
                    asyncio.create_task(self._read(), name="read events"),
                    asyncio.create_task(self._guard(), name="guard watchers"),
                ]
            self._watchers[watcher] = None

    async def leave(self, watcher: Watcher) -> None:
        """Forget a connection. Safe to repeat."""
        self._watchers.pop(watcher, None)
        async with self._opening:
            if not self._watchers:
                await self._stop()

    async def close(self) -> None:
        """Cut all connections off; for the end of the process."""
        for watcher in list(self._watchers):
            watcher.cut_off(BackendUnavailable("The server is shutting down.", retry_after=5))
        self._watchers.clear()
        await self._stop()

    async def subscribe(self, watcher: Watcher, wanted: Subscribe) -> dict[str, Any]:
        """Watch channels, first the past that is asked for; returns what is granted and what is refused.

        No event is missing between the past and the present, and none comes twice. Raises BackendUnavailable when the
        past can't be read.
        """
        async with watcher.turn:
            granted, refused = decide(watcher.caller, wanted.channels)
            wants_past = wanted.replay > 0 or wanted.after is not None
            until = self._after
            for channel in granted:
                if wants_past or channel not in watcher.channels:
                    watcher.channels[channel] = place_of(until)
            replayed = 0
            if granted and wants_past:
                watcher.hold()
                try:
                    past = await self._past(watcher.caller, granted, wanted, until)
                    for news in past:
                        watcher.send(news.view(watcher.caller))
                    replayed = len(past)
                except RedisError:
                    raise BackendUnavailable(retry_after=1) from None
                finally:
                    watcher.release()
            return _answer(watcher) | {"granted": granted, "refused": refused, "replayed": replayed, "last_id": until}

    async def unsubscribe(self, watcher: Watcher, unwanted: Unsubscribe) -> dict[str, Any]:
        """Leave channels; returns which were left, and what is still watched."""
        async with watcher.turn:
            names = list(watcher.channels) if unwanted.channels is None else unwanted.channels
            left = [channel for channel in watcher.channels if channel in names]
            for channel in left:
                del watcher.channels[channel]
            return _answer(watcher) | {"left": left}

    # ------------------------------------------------------------ the past

    async def _past(self, caller: Caller, channels: list[Channel], wanted: Subscribe, until: str) -> list[News]:
        """The newest events up to `until` that the caller sees, oldest first. Raises RedisError."""
        most = wanted.replay if wanted.after is None else MAX_REPLAY
        found: list[News] = []
        async with self._replaying:
            for channel in channels:
                found += await _newest(caller, channel, most, wanted.after or BEGINNING, until)
        return sorted(found, key=lambda news: news.place)[-most:]

    # ------------------------------------------------------------ the present

    async def _read(self) -> None:
        line = new_redis_line()
        try:
            while True:
                try:
                    events, after = await next_events(line, self._after)
                except RedisError as error:
                    logger.warning("the events can't be read: %s", error)
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                self._after = after
                for recorded in events:
                    await self._tell(recorded)
        finally:
            await line.close()

    async def _tell(self, recorded: Recorded) -> None:
        news = News(recorded)
        for number, watcher in enumerate(self._audience(news), start=1):
            try:
                watcher.take(news)
            except Exception:
                logger.exception("a watcher could not be told of an event")
            if number % _STRIDE == 0:
                await asyncio.sleep(0)

    def _audience(self, news: News) -> Iterable[Watcher]:
        """Those who watch the channel now, and may see this event."""
        return [
            watcher for watcher in self._watchers if news.channel in watcher.channels and news.is_for(watcher.caller)
        ]

    # ------------------------------------------------------------ rights

    async def _guard(self) -> None:
        """Look twice a second whether a user or key has changed, and act on what the watchers may no longer do."""
        while True:
            await asyncio.sleep(GUARD_SECONDS)
            try:
                mark = await current_mark()
                if mark is not None:
                    for watcher in list(self._watchers):
                        await _identify_again(watcher, mark)
            except Exception:
                logger.exception("the watchers' rights could not be checked")

    async def _stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def slow() -> ApiError:
    """Why a connection is cut off that takes nothing."""
    return BackendUnavailable("This connection took its events too slowly.", retry_after=1)


async def _newest(caller: Caller, channel: Channel, most: int, after: str, until: str) -> list[News]:
    found: list[News] = []
    before = until
    while before and len(found) < most:
        read, oldest = await read_back(before, channel=channel, count=_CHUNK)
        fresh = [News(recorded) for recorded in read if place_of(recorded.id) > place_of(after)]
        found += [news for news in fresh if news.is_for(caller)]
        if not oldest or len(fresh) < len(read):
            break
        before = f"({oldest}"
    return found[:most]


async def _identify_again(watcher: Watcher, mark: bytes) -> None:
    now = time.monotonic()
    if watcher.mark == mark and now - watcher.identified_at < IDENTIFY_SECONDS:
        return
    caller = await watcher.identify()
    if caller is None:
        watcher.cut_off(AuthenticationFailed("Your key, token or session has ended."))
        return
    if "read" not in caller.permissions:
        watcher.cut_off(PermissionDenied())
        return
    watcher.caller, watcher.mark, watcher.identified_at = caller, mark, now
    lost = [channel for channel in watcher.channels if needed_permission(channel) not in caller.permissions]
    for channel in lost:
        del watcher.channels[channel]
    if lost:
        watcher.send(View("unsubscribed", {"event": "unsubscribed", **_answer(watcher), "left": lost}))


def _answer(watcher: Watcher) -> dict[str, Any]:
    return {"success": True, "channels": list(watcher.channels)}


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, EventHub] = WeakKeyDictionary()


def hub() -> EventHub:
    """The running event loop's hub."""
    loop = asyncio.get_running_loop()
    found = _hubs.get(loop)
    if found is None:
        found = _hubs[loop] = EventHub()
    return found


async def close_hub() -> None:
    """End the running event loop's hub, if it has one."""
    found = _hubs.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.close()
