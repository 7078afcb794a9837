"""The bodies that OpenAI's clients send, checked, and turned into prompts of ours.

Nothing is dropped in silence: a parameter that this server doesn't have is a 400 that names it, unless its value asks
for nothing. Only HINTS, which OpenAI itself promises no effect of, are taken and left.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import msgspec
from django.conf import settings
from msgspec import UNSET, Meta, UnsetType

from common.errors import InvalidInput
from engine.messages import ChatTurn
from engine.params import MAX_LOGPROBS, MAX_SEED, InvalidParameter, SamplingParams
from inference.bodies import Prompt, convert

MAX_CHOICES = 16
MAX_SCHEMA_LENGTH = 64 * 1024
_DEFAULT_COMPLETION_TOKENS = 16
_WHOLE_CONTEXT = 2**31 - 1

# About the caller, not about the answer.
HINTS = ("user", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention")
# What this server doesn't have, with the values that ask for nothing.
_NOT_HERE: dict[str, tuple[Any, ...]] = {
    "logit_bias": ({},),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
_NOT_IN_CHAT: dict[str, tuple[Any, ...]] = {
    **_NOT_HERE,
    "audio": (),
    "function_call": (),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "reasoning_effort": ("none",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
_NOT_IN_COMPLETIONS: dict[str, tuple[Any, ...]] = {
    **_NOT_HERE,
    "echo": (False,),
    "suffix": ("",),
}


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """`include_usage`: send the figures in a chunk of their own, before the end."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class TextPart(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a turn; only text can be read here."""

    type: Literal["text"]
    text: str


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """One turn. What OpenAI's own answers carry beside the text may be sent back while it is empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    refusal: Literal[""] | None = None
    audio: Literal[""] | None = None
    function_call: Literal[""] | None = None
    tool_calls: Annotated[list[Any], Meta(max_length=0)] | None = None
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None


class JsonSchema(msgspec.Struct, forbid_unknown_fields=True):
    """What the answer must look like. It always does: `strict` changes nothing."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    """`json_schema` goes with the type of that name."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | UnsetType = UNSET


class Common(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What both endpoints take. `top_k`, `min_p` and `repetition_penalty` are this server's own."""

    model: Annotated[str, Meta(description="Id or alias of a model, or `default`.")] = "default"
    max_tokens: Annotated[int, Meta(ge=1, le=_WHOLE_CONTEXT)] | UnsetType = UNSET
    temperature: (
        Annotated[float, Meta(ge=0, le=2, description="0 is greedy, else 0.01 to 2. Default: 1.")] | UnsetType
    ) = UNSET
    top_p: Annotated[float, Meta(gt=0, le=1)] | UnsetType = UNSET
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES, description="Completions of each prompt.")] = 1
    seed: (
        Annotated[int, Meta(ge=-MAX_SEED, le=MAX_SEED, description="Choice i is drawn with seed + i.")] | UnsetType
    ) = UNSET
    stop: Annotated[str | list[str], Meta(description="What ends a completion.")] | UnsetType = UNSET
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | UnsetType = UNSET
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | UnsetType = UNSET
    stream: bool = False
    stream_options: StreamOptions | UnsetType = UNSET
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | UnsetType = UNSET
    min_p: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    repetition_penalty: Annotated[float, Meta(ge=0.1, le=10)] | UnsetType = UNSET


class ChatBody(Common, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Annotated[int, Meta(ge=1, le=_WHOLE_CONTEXT)] | UnsetType = UNSET
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | UnsetType = UNSET
    response_format: ResponseFormat | UnsetType = UNSET


class CompletionBody(Common, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/completions`. The prompt goes to the model as it is, without a chat template."""

    prompt: Annotated[str | list[str], Meta(description="A prompt, or several.")]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | UnsetType = UNSET
    best_of: Annotated[int, Meta(ge=1, description="Only as many as `n`.")] | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A checked body: `n` choices for each of `prompts`. `field_names`: how this body calls our fields."""

    model: str
    prompts: tuple[Prompt, ...]
    n: int
    stream: bool
    include_usage: bool
    seconds: float
    field_names: Mapping[str, str]

    def choices(self) -> list[Prompt]:
        """Each prompt `n` times; with a seed, each has the next one, or they would all say the same."""
        return [_reseeded(prompt, choice) for prompt in self.prompts for choice in range(self.n)]


def _reseeded(prompt: Prompt, choice: int) -> Prompt:
    seed = prompt.params.seed
    if seed is None or choice == 0:
        return prompt
    return replace(prompt, params=msgspec.structs.replace(prompt.params, seed=(seed + choice) & MAX_SEED))


def parse_chat(data: Any) -> CompletionRequest:
    """Raises InvalidInput."""
    body = convert(_supported(data, ChatBody, _NOT_IN_CHAT), ChatBody, "")
    limit_name = "max_tokens" if body.max_completion_tokens is UNSET else "max_completion_tokens"
    if body.max_tokens is not UNSET and body.max_completion_tokens is not UNSET:
        raise InvalidInput("Send either max_completion_tokens or max_tokens.", field="max_tokens")
    limit = getattr(body, limit_name)
    turns = tuple(_turn(message) for message in body.messages)
    if not any(turn.content for turn in turns):
        raise InvalidInput("At least one message with content is required.", field="messages")
    if body.top_logprobs is not UNSET and not body.logprobs:
        raise InvalidInput("top_logprobs go with logprobs alone.", field="top_logprobs")
    logprobs = (0 if body.top_logprobs is UNSET else body.top_logprobs) if body.logprobs else None
    prompt = Prompt(
        params=_sampling(body, _WHOLE_CONTEXT if limit is UNSET else limit, logprobs),
        text=None,
        messages=turns,
        system=None,
        raw=False,
        fills_context=limit is UNSET,
        response_schema=_schema(body.response_format),
    )
    return _request(body, (prompt,), {"max_tokens": limit_name, "logprobs": "top_logprobs"})


def parse_completion(data: Any) -> CompletionRequest:
    """Raises InvalidInput."""
    body = convert(_supported(data, CompletionBody, _NOT_IN_COMPLETIONS), CompletionBody, "")
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not texts or not all(texts):
        raise InvalidInput("The prompt must not be empty.", field="prompt")
    if body.best_of is not UNSET and body.best_of != body.n:
        raise InvalidInput("best_of is supported only where it equals n.", field="best_of", details=_UNSUPPORTED)
    if len(texts) * body.n > MAX_CHOICES:
        details = {"max_choices": MAX_CHOICES}
        message = f"At most {MAX_CHOICES} completions can be asked for at once: prompts times n."
        raise InvalidInput(message, field="prompt" if len(texts) > 1 else "n", details=details)
    limit = _DEFAULT_COMPLETION_TOKENS if body.max_tokens is UNSET else body.max_tokens
    params = _sampling(body, limit, None if body.logprobs is UNSET else body.logprobs)
    prompts = tuple(Prompt(params=params, text=text, messages=None, system=None, raw=True) for text in texts)
    return _request(body, prompts, {"text": "prompt", "raw": "prompt"})


_UNSUPPORTED = {"reason": "unsupported_parameter"}


def _supported(data: Any, body: type[Common], not_here: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The parameters that mean something here; null is as good as none. Raises InvalidInput for those not supported."""
    known = body.__struct_fields__
    found: dict[str, Any] = {}
    for name, value in dict(data).items():
        if name in HINTS or (value is None and (name in known or name in not_here)):
            continue
        if name not in not_here:
            found[name] = value
        elif not any(value == nothing and isinstance(value, type(nothing)) for nothing in not_here[name]):
            raise InvalidInput(f"{name} is not supported by this server.", field=name, details=_UNSUPPORTED)
    return found


def _turn(message: Message) -> ChatTurn:
    content = message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    return ChatTurn("system" if message.role == "developer" else message.role, text)


def _schema(wanted: ResponseFormat | UnsetType) -> str:
    """The JSON Schema of a response format, as text; empty for plain text."""
    if wanted is UNSET or wanted.type == "text":
        return ""
    if (wanted.type == "json_schema") != (wanted.json_schema is not UNSET):
        raise InvalidInput("It goes with the type json_schema.", field="response_format.json_schema")
    schema = {"type": "object"} if wanted.json_schema is UNSET else wanted.json_schema.schema
    text = msgspec.json.encode(schema).decode()
    if len(text) > MAX_SCHEMA_LENGTH:
        details = {"max_length": MAX_SCHEMA_LENGTH, "provided_length": len(text)}
        message = f"The schema is longer than {MAX_SCHEMA_LENGTH} characters."
        raise InvalidInput(message, field="response_format.json_schema.schema", details=details)
    return text


def _sampling(body: Common, max_tokens: int, logprobs: int | None) -> SamplingParams:
    stop = () if body.stop is UNSET else (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    given = {
        name: value
        for name in _SAMPLING_NAMES
        if name not in ("max_tokens", "stop", "seed") and (value := getattr(body, name)) is not UNSET
    }
    seed = None if body.seed is UNSET else body.seed & MAX_SEED
    try:
        return SamplingParams(max_tokens=max_tokens, stop=stop, seed=seed, logprobs=logprobs, **given).validate()
    except InvalidParameter as error:
        raise InvalidInput(f"{error.field} {error.message}.", field=error.field) from None


_SAMPLING_NAMES = tuple(name for name in SamplingParams.__struct_fields__ if name in Common.__struct_fields__)


def _request(body: Common, prompts: tuple[Prompt, ...], field_names: Mapping[str, str]) -> CompletionRequest:
    if body.stream_options is not UNSET and not body.stream:
        raise InvalidInput("stream_options go with stream alone.", field="stream_options")
    return CompletionRequest(
        model=body.model,
        prompts=prompts,
        n=body.n,
        stream=body.stream,
        include_usage=body.stream_options is not UNSET and body.stream_options.include_usage,
        seconds=settings.REQUEST_TIMEOUT,
        field_names=field_names,
    )
