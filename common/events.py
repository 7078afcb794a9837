"""What happens and may be watched: the catalogue of events, and the streams that carry them between processes.

Every event is a Struct of this module, published to its channel's capped Redis stream. Whoever shows events (Socket.IO,
Channels) reads on from the id of the last one it has seen, so a reader that was away catches up on all that the streams
still hold. Ids and times come from Redis, so they agree whatever the clocks of the hosts say, and one sequence of ids
runs through all the streams: one id says of every channel what came before it.
"""

import logging
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, cast, get_args

import msgspec
import redis

from common.redis import key, redis_line, sync_redis
from common.redis_line import Script

logger = logging.getLogger(__name__)

Channel = Literal[
    "system_metrics",
    "gpu_metrics",
    "inference_stats",
    "inference_events",
    "plugin_events",
    "model_events",
    "job_events",
    "log_events",
]
CHANNELS: tuple[Channel, ...] = get_args(Channel)
LoadStage = Literal["wait", "download", "convert", "import", "read", "quantise", "warm up"]

# About so many events of each channel can be replayed.
STREAM_LENGTHS: dict[Channel, int] = {
    "system_metrics": 2_000,
    "gpu_metrics": 4_000,
    "inference_stats": 2_000,
    "inference_events": 4_000,
    "plugin_events": 5_000,
    "model_events": 5_000,
    "job_events": 5_000,
    "log_events": 2_000,
}
# For how long events can be replayed; completions for little longer than a reconnect takes.
STREAM_SECONDS = 24 * 3600
INFERENCE_STREAM_SECONDS = 600


class Event(msgspec.Struct, frozen=True, tag_field="event", kw_only=True):
    """Something that has happened. Its tag is its public name, `channel` what a watcher subscribes to.

    Only what every subscriber of the channel may see belongs in an event: no prompt, no key, no path. An event of
    which people see different things says so in `fields`.
    """

    channel: ClassVar[Channel]

    @property
    def name(self) -> str:
        return str(self.__struct_config__.tag)

    def fields(self, *, is_own: bool = False) -> dict[str, Any]:
        """The event's fields without its name. `is_own`: for the one whose event it is."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        fields.pop("event")
        return fields


# ---------------------------------------------------------------- the system


class SystemMetrics(Event, frozen=True, kw_only=True, tag="system_metrics"):
    """One host now. Usages in percent, `network_rx` and `network_tx` in bytes per second since the last one.

    `active_requests` and `request_rate` (ended per minute, over the last five) are those of the whole installation.
    None is what could not be measured.
    """

    channel = "system_metrics"

    host: str
    cpu_usage: float | None
    memory_usage: float | None
    disk_usage: float | None
    network_rx: int | None
    network_tx: int | None
    active_requests: int | None
    request_rate: float | None


class GpuMetrics(Event, frozen=True, kw_only=True, tag="gpu_metrics"):
    """One GPU now. Memory in MiB, `utilization` in percent, `temperature` in °C, power in watts."""

    channel = "gpu_metrics"

    host: str
    gpu_id: int
    name: str
    utilization: float | None
    memory_used: int | None
    memory_total: int | None
    temperature: float | None
    power_usage: float | None
    power_limit: float | None


class InferenceStats(Event, frozen=True, kw_only=True, tag="inference_stats"):
    """The requests of the last five minutes, over the whole installation. Times in seconds; None where nothing has
    ended."""

    channel = "inference_stats"

    total_requests: int
    successful_requests: int
    error_rate: float | None
    avg_response_time: float | None
    requests_per_minute: float
    tokens_per_second: float
    time_to_first_token: float | None
    active_requests: int
    queued_requests: int


class LogEvent(Event, frozen=True, kw_only=True, tag="log_event"):
    """A line of the log, for administrators."""

    channel = "log_events"

    level: str
    component: str
    message: str
    host: str = ""
    request_id: str = ""
    metadata: dict[str, Any] = {}


# ---------------------------------------------------------------- requests


class InferenceEvent(Event, frozen=True, kw_only=True):
    """A request, or the item `item` of a batch. `user_id` is whose it is, and is shown to nobody."""

    channel = "inference_events"

    request_id: str
    model: str
    kind: str
    item: int = 0
    user_id: int | None = None

    def fields(self, *, is_own: bool = False) -> dict[str, Any]:
        fields = super().fields(is_own=is_own)
        fields.pop("user_id")
        return fields


class InferenceStarted(InferenceEvent, frozen=True, kw_only=True, tag="inference_started"):
    """An engine has taken the request."""

    backend: str
    prompt_tokens: int


class InferenceCompleted(InferenceEvent, frozen=True, kw_only=True, tag="inference_completed"):
    """Times in seconds: the queue's from submission, the inference's from the first prefill step, the first token's
    from the request's arrival.

    `generated_text` holds settings.EVENT_TEXT_CHARACTERS at most: events are news, the whole text is in the request's
    answer. It is shown, with the figures, as `result`: to the one
    whose request it was, and to nobody else.
    """

    backend: str
    prompt_tokens: int
    tokens_generated: int
    inference_time: float
    queue_time: float
    time_to_first_token: float
    finish_reason: str
    generated_text: str = ""
    is_text_cut: bool = False

    def fields(self, *, is_own: bool = False) -> dict[str, Any]:
        fields = super().fields(is_own=is_own)
        text, is_cut = fields.pop("generated_text"), fields.pop("is_text_cut")
        fields["result"] = {"generated_text": text, "is_text_cut": is_cut, **fields} if is_own else None
        return fields


class InferenceFailed(InferenceEvent, frozen=True, kw_only=True, tag="inference_failed"):
    """`code` is an error code of the API, `error` its sentence; a refusal's may quote the request, and is its own."""

    code: str
    error: str

    def fields(self, *, is_own: bool = False) -> dict[str, Any]:
        fields = super().fields(is_own=is_own)
        if not is_own and self.code in _QUOTING_CODES:
            fields["error"] = ""
        return fields


class InferenceCancelled(InferenceEvent, frozen=True, kw_only=True, tag="inference_cancelled"):
    """`reason`: `disconnected`, `timeout`, `slow_reader`, `lost` or `shutdown`."""

    reason: str
    tokens_generated: int


_QUOTING_CODES = ("INVALID_INPUT", "CONTENT_BLOCKED")


# ---------------------------------------------------------------- jobs


class JobEvent(Event, frozen=True, kw_only=True):
    """A job as it is now. `state` is its state; the counts are of its items. `user_id` is whose it is, and is shown to
    nobody."""

    channel = "job_events"

    job_id: str
    kind: str
    model: str
    state: str
    total: int
    completed: int
    failed: int
    cancelled: int
    user_id: int | None = None

    def fields(self, *, is_own: bool = False) -> dict[str, Any]:
        fields = super().fields(is_own=is_own)
        fields.pop("user_id")
        return fields


class JobCreated(JobEvent, frozen=True, kw_only=True, tag="job_created"):
    """It has been submitted. Of one whose input is a file, `total` is not known yet."""


class JobProgress(JobEvent, frozen=True, kw_only=True, tag="job_progress"):
    """Items of it have ended; told once a second at most."""


class JobCompleted(JobEvent, frozen=True, kw_only=True, tag="job_completed"):
    """Each of its items has ended, and one at least was not in vain."""


class JobFailed(JobEvent, frozen=True, kw_only=True, tag="job_failed"):
    """It was given up, or none of its items has succeeded."""


class JobCancelled(JobEvent, frozen=True, kw_only=True, tag="job_cancelled"):
    pass


class JobExpired(JobEvent, frozen=True, kw_only=True, tag="job_expired"):
    """Its time was over before all of its items had ended."""


AnyJobEvent = JobCreated | JobProgress | JobCompleted | JobFailed | JobCancelled | JobExpired
# What tells of one user's work, and is for that user and for administrators.
OwnedEvent = InferenceEvent | JobEvent

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


_KINDS = (
    SystemMetrics,
    GpuMetrics,
    InferenceStats,
    LogEvent,
    InferenceStarted,
    InferenceCompleted,
    InferenceFailed,
    InferenceCancelled,
    JobCreated,
    JobProgress,
    JobCompleted,
    JobFailed,
    JobCancelled,
    JobExpired,
    ModelLoading,
    ModelLoaded,
    ModelUnloaded,
    ModelLoadFailed,
    ModelLost,
    PluginLoaded,
    PluginUnloaded,
    PluginError,
)
AnyEvent = (
    SystemMetrics
    | GpuMetrics
    | InferenceStats
    | LogEvent
    | InferenceStarted
    | InferenceCompleted
    | InferenceFailed
    | InferenceCancelled
    | JobCreated
    | JobProgress
    | JobCompleted
    | JobFailed
    | JobCancelled
    | JobExpired
    | ModelLoading
    | ModelLoaded
    | ModelUnloaded
    | ModelLoadFailed
    | ModelLost
    | PluginLoaded
    | PluginUnloaded
    | PluginError
)
CATALOGUE: dict[str, type[Event]] = {str(kind.__struct_config__.tag): kind for kind in _KINDS}

_encoder = msgspec.json.Encoder()


# ---------------------------------------------------------------- publishing

# Gives every event the next id of the one sequence: Redis' time in milliseconds, and a count within one.
_PUBLISH = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = redis.call('GET', KEYS[1])
local ms, count = 0, -1
if last then
    local dash = string.find(last, '-', 1, true)
    ms, count = tonumber(string.sub(last, 1, dash - 1)), tonumber(string.sub(last, dash + 1))
end
if now > ms then ms, count = now, -1 end
local id
for i = 2, #KEYS do
    count = count + 1
    id = string.format('%.0f-%d', ms, count)
    local data, length, seconds = unpack(ARGV, 3 * i - 5, 3 * i - 3)
    redis.call('XADD', KEYS[i], 'MAXLEN', '~', length, id, 'e', data)
    redis.call('XTRIM', KEYS[i], 'MINID', string.format('%.0f', ms - seconds * 1000))
    redis.call('EXPIRE', KEYS[i], seconds)
end
redis.call('SET', KEYS[1], id)
"""
_publish = Script(_PUBLISH)


def publish(*events: AnyEvent) -> None:
    """Tell everybody, from any thread of any process, in one round trip. What fails is logged: news never stop the
    work they tell of."""
    if not events:
        return
    keys, arguments = _keys_and_arguments(events)
    try:
        cast("Any", sync_redis()).eval(_PUBLISH, len(keys), *keys, *arguments)
    except redis.RedisError as error:
        logger.warning("the event %s was not published: %s", _names(events), error)
    except Exception:
        logger.exception("the event %s was not published", _names(events))


async def apublish(*events: AnyEvent) -> None:
    """`publish` for coroutines."""
    if not events:
        return
    keys, arguments = _keys_and_arguments(events)
    try:
        await _publish.run(redis_line(), keys, arguments)
    except redis.RedisError as error:
        logger.warning("the event %s was not published: %s", _names(events), error)
    except Exception:
        logger.exception("the event %s was not published", _names(events))


def forget_completions() -> None:
    """Drop what can't be replayed any more of how requests went, whether or not new ones come. Raises RedisError."""
    seconds, microseconds = sync_redis().time()
    oldest = (seconds - INFERENCE_STREAM_SECONDS) * 1000 + microseconds // 1000
    sync_redis().xtrim(stream_of("inference_events"), minid=oldest, approximate=False)


def _keys_and_arguments(events: Iterable[AnyEvent]) -> tuple[list[str], list[str | int | bytes]]:
    keys = [key("events", "last")]
    arguments: list[str | int | bytes] = []
    for event in events:
        keys.append(stream_of(event.channel))
        seconds = INFERENCE_STREAM_SECONDS if event.channel == "inference_events" else STREAM_SECONDS
        arguments += [_encoder.encode(event), STREAM_LENGTHS[event.channel], seconds]
    return keys, arguments


def _names(events: Iterable[AnyEvent]) -> str:
    return ", ".join(sorted({event.name for event in events}))


def stream_of(channel: Channel) -> str:
    """The key of a channel's stream."""
    return key("events", channel)
