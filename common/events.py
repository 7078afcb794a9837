"""What happens and may be watched: the catalogue of events, and the stream that carries them between processes.

Every event is a Struct of this module, published to one capped Redis stream. Whoever shows events (Socket.IO, Channels,
an SSE door) reads on from the id of the last one it has seen, so a reader that was away catches up on all that the
stream still holds. An event's id and its time come from Redis, so they agree whatever the clocks of the hosts say.
"""

import logging
from collections.abc import AsyncGenerator
from typing import Any, ClassVar, Literal

import msgspec
import redis

from common.redis import async_redis, key, sync_redis

logger = logging.getLogger(__name__)

# About this many events can be replayed; at a few a second, an hour of them.
STREAM_LENGTH = 10_000
BEGINNING = "0-0"
_FIELD = b"e"
_MAX_BLOCK_SECONDS = 2.0  # well within what the client waits for an answer

Channel = Literal["model_events", "plugin_events"]
LoadStage = Literal["wait", "download", "convert", "read", "quantise", "warm up"]


class Event(msgspec.Struct, frozen=True, tag_field="event", kw_only=True):
    """Something that has happened. Its tag is its public name, `channel` what a watcher subscribes to.

    Only what every subscriber of the channel may see belongs in an event: no prompt, no key, no path.
    """

    channel: ClassVar[Channel]

    @property
    def name(self) -> str:
        return str(self.__struct_config__.tag)


# ---------------------------------------------------------------- models


class ModelEvent(Event, frozen=True, kw_only=True):
    """`model` is the model's id; `host` and `device` say where, and are empty for a model as a whole."""

    channel = "model_events"

    model: str
    host: str = ""
    device: str = ""


class ModelLoading(ModelEvent, frozen=True, kw_only=True, tag="model_loading"):
    """`progress` goes from 0 to 1 over all stages of the load."""

    progress: float
    stage: LoadStage


class ModelLoaded(ModelEvent, frozen=True, kw_only=True, tag="model_loaded"):
    """`memory_usage` is measured; `load_time` in seconds."""

    backend: str
    quantization: str
    memory_usage: str
    memory_usage_bytes: int
    load_time: float


class ModelUnloaded(ModelEvent, frozen=True, kw_only=True, tag="model_unloaded"):
    """`reason`: `asked`, `idle`, `evicted`, `deleted` or `shutdown`. `freed_memory` is measured."""

    reason: str
    freed_memory: str
    freed_memory_bytes: int


class ModelLoadFailed(ModelEvent, frozen=True, kw_only=True, tag="model_load_failed"):
    """`code` is an error code of the API, `error` its sentence."""

    code: str
    error: str


class ModelLost(ModelEvent, frozen=True, kw_only=True, tag="model_lost"):
    """The engine process, or the whole worker with it, has gone; `error` says which."""

    error: str


# ---------------------------------------------------------------- plugins


class PluginEvent(Event, frozen=True, kw_only=True):
    channel = "plugin_events"

    plugin_id: str


class PluginLoaded(PluginEvent, frozen=True, kw_only=True, tag="plugin_loaded"):
    """`load_time` in seconds."""

    load_time: float = 0.0


class PluginUnloaded(PluginEvent, frozen=True, kw_only=True, tag="plugin_unloaded"):
    pass


class PluginError(PluginEvent, frozen=True, kw_only=True, tag="plugin_error"):
    """`error` is a sentence for people, without a traceback."""

    error: str


AnyEvent = (
    ModelLoading
    | ModelLoaded
    | ModelUnloaded
    | ModelLoadFailed
    | ModelLost
    | PluginLoaded
    | PluginUnloaded
    | PluginError
)
CATALOGUE: dict[str, type[Event]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (
        ModelLoading,
        ModelLoaded,
        ModelUnloaded,
        ModelLoadFailed,
        ModelLost,
        PluginLoaded,
        PluginUnloaded,
        PluginError,
    )
}

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyEvent)


class Recorded(msgspec.Struct, frozen=True):
    """An event as the stream holds it. `id` orders all events; `at` is its time in Unix seconds, by Redis' clock."""

    id: str
    at: float
    event: AnyEvent

    def fields(self) -> dict[str, Any]:
        """The event's own fields, without its name."""
        fields: dict[str, Any] = msgspec.to_builtins(self.event)
        fields.pop("event")
        return fields


# ---------------------------------------------------------------- publishing


def publish(event: AnyEvent) -> None:
    """Tell everybody, from any thread of any process. What fails is logged: news never stop the work they tell of."""
    try:
        sync_redis().xadd(_stream(), {_FIELD: _encoder.encode(event)}, maxlen=STREAM_LENGTH, approximate=True)
    except redis.RedisError as error:
        logger.warning("the event %s was not published: %s", event.name, error)
    except Exception:
        logger.exception("the event %s was not published", event.name)


async def apublish(event: AnyEvent) -> None:
    """`publish` for coroutines."""
    try:
        await async_redis().xadd(_stream(), {_FIELD: _encoder.encode(event)}, maxlen=STREAM_LENGTH, approximate=True)
    except redis.RedisError as error:
        logger.warning("the event %s was not published: %s", event.name, error)
    except Exception:
        logger.exception("the event %s was not published", event.name)


# ---------------------------------------------------------------- reading


async def last_id() -> str:
    """Where the stream ends now: reading on from here brings only what happens from now on. Raises RedisError."""
    entries: Any = await async_redis().xrevrange(_stream(), count=1)
    return str(entries[0][0].decode()) if entries else BEGINNING


async def read_events(after: str = BEGINNING, *, count: int = 500) -> list[Recorded]:
    """The events after that id, oldest first, at most `count`; those that have left the stream are missing.

    Raises redis.RedisError.
    """
    entries: Any = await async_redis().xrange(_stream(), min=f"({after}", count=count)
    return _decoded(entries)


async def watch_events(after: str) -> AsyncGenerator[Recorded, None]:
    """Every event after that id, for as long as somebody asks for the next one. Raises redis.RedisError."""
    client, stream = async_redis(), _stream()
    while True:
        answer: Any = await client.xread({stream: after}, block=int(_MAX_BLOCK_SECONDS * 1000))
        for entries in _batches(answer):
            for recorded in _decoded(entries):
                yield recorded
            if entries:
                after = entries[-1][0].decode()


def _stream() -> str:
    return key("events")


def _decoded(entries: list[tuple[bytes, dict[bytes, bytes]]]) -> list[Recorded]:
    recorded = []
    for raw_id, fields in entries:
        entry_id = raw_id.decode()
        try:
            event = _decoder.decode(fields[_FIELD])
        except (msgspec.DecodeError, KeyError):
            logger.warning("the event %s can't be read; another version of this server may have sent it", entry_id)
            continue
        recorded.append(Recorded(entry_id, int(entry_id.partition("-")[0]) / 1000, event))
    return recorded


def _batches(answer: Any) -> list[list[tuple[bytes, dict[bytes, bytes]]]]:
    """XREAD's answer is a list of pairs in RESP2, a mapping in RESP3 (whose values have one more level)."""
    if not answer:
        return []
    if isinstance(answer, dict):
        return [batch for batches in answer.values() for batch in batches]
    return [batch for _, batch in answer]
