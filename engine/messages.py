"""What a worker and its engine process say to each other.

Messages are msgspec Structs, sent as length-prefixed MessagePack frames (`engine.framing`) over a socket pair. They are
the only coupling between the two.
"""

from typing import Any, Literal

import msgspec

from engine.params import SamplingParams

BACKGROUND_PRIORITY = -1
FinishReason = Literal["stop", "length", "cancelled"]


class ChatTurn(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation, as the model's chat template takes it.

    `tool_calls`: those that the model has made in it, as a JSON list. `tool_call_id`: whose result a turn of the role
    `tool` is.
    """

    role: str
    content: str
    tool_calls: str = ""
    tool_call_id: str = ""


# ---------------------------------------------------------------- worker → engine


class EngineConfig(msgspec.Struct, frozen=True, tag="start"):
    """What an engine process is started with; the first message it gets.

    `model_path` is a folder with safetensors. `runner`: `torch` or `echo`. `device`: `cpu`, `cuda:N`, `mps`.
    `devices`: the devices that the layers are split over, in their order; empty: all on `device`.
    `quantization`: `auto`, `fp32`, `bf16`, `fp16`, `int8`, `int4`. `kv_cache_bytes`: 0 lets the engine choose.
    `max_memory_bytes`: what the whole engine may take on its devices, 0 for no limit: the KV cache shrinks to fit.
    `trust_remote_code`: run model code that lies beside the weights. `allow_pickle`: read weights that are no
    safetensors; both can run whatever their author wrote, so they are off unless an admin flagged this model.
    `prefill_chunk`: prompt tokens per step when nobody decodes, `mixed_chunk` when somebody does.
    `threads`: 0 takes all cores. `echo_delay`: seconds per step of the echo runner.
    """

    model_path: str
    runner: Literal["torch", "echo"] = "torch"
    device: str = "cpu"
    devices: tuple[str, ...] = ()
    quantization: str = "auto"
    context_length: int | None = None
    max_sequences: int = 32
    prefill_chunk: int = 512
    mixed_chunk: int = 64
    kv_cache_bytes: int = 0
    max_memory_bytes: int = 0
    trust_remote_code: bool = False
    allow_pickle: bool = False
    threads: int = 0
    prefix_caching: bool = True
    echo_delay: float = 0.0


class Generate(msgspec.Struct, frozen=True, tag="generate"):
    """Start one completion.

    Exactly one of `text`, `tokens` and `messages` is set. `tokens` are the prompt as the model's own tokens. Unless
    `raw`, a model with a chat template gets `text` as a user turn. `priority`: higher goes first among the waiting
    ones; BACKGROUND_PRIORITY gives way to all others, also while it runs. `fills_context`: max_tokens gives way to what
    the prompt leaves of the context and of `most_tokens`, instead of being refused. `response_schema`: the JSON Schema,
    as text, that the completion is held to; empty: none. `tools`: what the chat template tells the model that it can
    call, as a JSON list. `stream`: whether `Delta` events are wanted; without it the engine sends only Accepted and the
    end. `cache_salt`: computed prompt beginnings are used again only among requests with the same one, since the time
    that they save tells that somebody has sent the same beginning before. `most_tokens`: what is reserved for prompt
    and completion together, which they never exceed; None: no bound. `embed`: nothing is completed; the end
    brings the prompt's embedding.
    """

    request_id: str
    params: SamplingParams
    text: str | None = None
    messages: tuple[ChatTurn, ...] | None = None
    system: str | None = None
    raw: bool = False
    priority: int = 0
    stream: bool = True
    fills_context: bool = False
    response_schema: str = ""
    tools: str = ""
    tokens: tuple[int, ...] | None = None
    embed: bool = False
    cache_salt: str = ""
    most_tokens: int | None = None


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """End a completion at the next step; it is answered by Finished with reason `cancelled`, if it still ran."""

    request_id: str


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """End the engine process; what still runs is cancelled."""


Command = EngineConfig | Generate | Abort | Shutdown

# ---------------------------------------------------------------- engine → worker


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    """The prompt was tokenised, fits the context and waits for its turn."""

    request_id: str
    prompt_tokens: int


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token of a completion, as its bytes, with its natural log probability and the likeliest tokens in its place.

    By the model's own scores, before penalties, temperature and filters.
    """

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


class Delta(msgspec.Struct, frozen=True, tag="delta", omit_defaults=True):
    """New text of a completion; whole characters only. `tokens` counts the tokens generated so far."""

    request_id: str
    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


class Finished(msgspec.Struct, frozen=True, tag="finished", omit_defaults=True):
    """The one good end of a completion.

    `text` is the whole completion, `delta` the part of it not yet sent as Delta, `logprobs` those of that part. Times
    are in seconds: `queue_time` from arrival to the first prefill step, `prefill_time` from then to the first token,
    `decode_time` from the first token to the last. `cached_tokens` counts the prompt tokens whose keys and values were
    reused. `embedding`: of the prompt, if that was asked for, as 32-bit floats, little-endian.
    """

    request_id: str
    text: str
    delta: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    queue_time: float
    prefill_time: float
    decode_time: float
    logprobs: tuple[TokenLogprob, ...] = ()
    embedding: bytes = b""

    @property
    def time_to_first_token(self) -> float:
        return self.queue_time + self.prefill_time

    @property
    def engine_time(self) -> float:
        """From arrival to the last token."""
        return self.queue_time + self.prefill_time + self.decode_time


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The one bad end of a request. `code` is an error code of the API, `details` are safe to show to the caller."""

    request_id: str
    code: str
    message: str
    details: dict[str, Any] = {}


RequestEvent = Accepted | Delta | Finished | Failed


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """Progress of a load, from 0 to 1 over all stages. The engine tells of `import` (of torch), `read`, `quantise`
    and `warm up`; a `download` is told of by the worker, before there is an engine."""

    progress: float
    stage: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is loaded and requests are taken. Sizes in bytes, measured in the engine process.

    `memory_bytes` is all that the process takes on its devices, `weight_bytes` and `kv_cache_bytes` are parts of it.
    `kv_tokens`: how many tokens the KV cache holds. `devices`: where the layers lie, in their order. `device_bytes`:
    what the process takes of each of them.
    """

    backend: str
    architecture: str
    parameters: int
    vocab_size: int
    context_length: int
    quantization: str
    has_chat_template: bool
    memory_bytes: int
    kv_cache_bytes: int
    max_sequences: int
    load_time: float
    weight_bytes: int = 0
    kv_tokens: int = 0
    devices: tuple[str, ...] = ()
    device_bytes: dict[str, int] = {}


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    """The model could not be loaded; the process ends after this. Sizes are known for INSUFFICIENT_MEMORY."""

    code: str
    message: str
    needed_bytes: int = 0
    free_bytes: int = 0


# The buckets of StepFigures: the upper ends of the gaps between tokens, in seconds, and of the batches' sizes.
TOKEN_GAP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
BATCH_BOUNDS = (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0, 256.0, 512.0)


class StepFigures(msgspec.Struct, frozen=True, array_like=True):
    """The steps of about the last second, summed up: how often each bucket was hit (one more than there are bounds),
    and the sums of the gaps between tokens, in seconds, and of the sequences in the steps."""

    gaps: tuple[int, ...]
    gap_seconds: float
    batches: tuple[int, ...]
    sequences: int


class Step(msgspec.Struct, frozen=True, tag="step"):
    """Everything one engine step has to tell, with the load after it; `figures` come once a second at most."""

    events: tuple[RequestEvent, ...]
    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    figures: StepFigures | None = None


EngineMessage = Loading | Ready | LoadFailed | Step
