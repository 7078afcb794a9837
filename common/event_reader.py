"""Reads the events that any process has published (`common.events`), in the order of their one sequence of ids."""

import logging
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

import msgspec

from common.events import CHANNELS, AnyEvent, Channel, stream_of
from common.redis import key, new_redis_line, redis_line
from common.redis_line import RedisLine

logger = logging.getLogger(__name__)

BEGINNING = "0-0"
_EVENT_ID = re.compile(r"\d{1,15}-\d{1,10}")
_FIELD = b"e"
_MAX_BLOCK_SECONDS = 2.0
_decoder = msgspec.json.Decoder(AnyEvent)


class Recorded(msgspec.Struct, frozen=True):
    """An event as the stream holds it. `id` orders all events; `at` is its time in Unix seconds, by Redis' clock."""

    id: str
    at: float
    event: AnyEvent


async def last_id() -> str:
    """The id of the last event: reading on from here brings only what happens from now on. Raises RedisError."""
    last = await redis_line().execute("GET", key("events", "last"))
    return last.decode() if last else BEGINNING


async def read_events(
    after: str = BEGINNING, *, channels: Sequence[Channel] = CHANNELS, count: int = 500
) -> list[Recorded]:
    """The events after that id, oldest first, at most `count`; those that have left the streams are missing.

    Raises redis.RedisError.
    """
    found: list[Recorded] = []
    end = await last_id()  # else one stream might be read before, the next one after an event
    for channel in channels:
        found += decoded(await redis_line().execute("XRANGE", stream_of(channel), f"({after}", end, "COUNT", count))
    return sorted(found, key=_place)[:count]


async def read_back(before: str, *, channel: Channel, count: int) -> tuple[list[Recorded], str]:
    """The last events of a channel up to and with that id, newest first, and the id of the oldest entry looked at, ""
    if there was none. Raises redis.RedisError."""
    entries = await redis_line().execute("XREVRANGE", stream_of(channel), before, "-", "COUNT", count)
    return decoded(entries), entries[-1][0].decode() if entries else ""


async def watch_events(after: str) -> AsyncGenerator[Recorded, None]:
    """Every event after that id, for as long as somebody asks for the next one. Raises redis.RedisError."""
    line = new_redis_line()
    try:
        while True:
            events, after = await next_events(line, after)
            for recorded in events:
                yield recorded
    finally:
        await line.close()


async def next_events(line: RedisLine, after: str, *, count: int = 500) -> tuple[list[Recorded], str]:
    """The events after that id, in order, after waiting for one for a while; and the id to go on from.

    `line` is the caller's own, since the command waits. Raises redis.RedisError.
    """
    streams = [stream_of(channel) for channel in CHANNELS]
    ids = [after] * len(streams)
    block = int(_MAX_BLOCK_SECONDS * 1000)
    command: tuple[str | int, ...] = ("XREAD", "COUNT", count, "BLOCK", block, "STREAMS", *streams, *ids)
    batches = _batches(await line.execute(*command, seconds=_MAX_BLOCK_SECONDS))
    if not batches:
        return [], after
    # A stream that gave all it may has more: what the others hold after its last entry has to wait for it.
    ends = [batch[-1][0] for batch in batches]
    full = [batch[-1][0] for batch in batches if len(batch) >= count]
    end = min(full, key=_place_of) if full else max(ends, key=_place_of)
    entries = [entry for batch in batches for entry in batch if _place_of(entry[0]) <= _place_of(end)]
    return sorted(decoded(entries), key=_place), end.decode()


def place_of(event_id: str) -> tuple[int, int]:
    """Where an event stands in the sequence of all; what events are sorted by."""
    return _place_of(event_id.encode())


def decoded(entries: Iterable[Sequence[Any]]) -> list[Recorded]:
    """A stream's entries as events; those that can't be read are passed over."""
    recorded = []
    for raw_id, fields in entries:
        entry_id = raw_id.decode()
        try:
            event = _decoder.decode(fields[fields.index(_FIELD) + 1])
        except (msgspec.DecodeError, ValueError):
            logger.warning("the event %s can't be read; another version of this server may have sent it", entry_id)
            continue
        recorded.append(Recorded(entry_id, int(entry_id.partition("-")[0]) / 1000, event))
    return recorded


def is_event_id(text: str) -> bool:
    """Whether it looks like an event's id."""
    return _EVENT_ID.fullmatch(text) is not None


def _place(recorded: Recorded) -> tuple[int, int]:
    return place_of(recorded.id)


def _place_of(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, count = entry_id.partition(b"-")
    return int(milliseconds), int(count or 0)


def _batches(answer: Any) -> list[list[Any]]:
    """XREAD's answer is a list of pairs in RESP2, a mapping in RESP3."""
    if not answer:
        return []
    return list(answer.values()) if isinstance(answer, dict) else [batch for _, batch in answer]
