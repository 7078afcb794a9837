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
from inference.openai_door.tools import MAX_TOOLS, CallInTurn, Tool, ToolChoice, Tooling, tooling, turn_calls

MAX_CHOICES = 16
MAX_SCHEMA_LENGTH = 64 * 1024
_DEFAULT_COMPLETION_TOKENS = 16
_WHOLE_CONTEXT = 2**31 - 1
_SCHEMA_FIELD = "response_format.json_schema.schema"

Inputs = str | list[str | int | list[int]]

# About the caller, not about the answer.
HINTS = ("user", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention")
# What this server doesn't have, with the values that ask for nothing.
_NOT_HERE: dict[str, tuple[Any, ...]] = {
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
    "prediction": (),
    "reasoning_effort": ("none",),
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
    """One turn. What OpenAI's own answers carry beside the text may be sent back while it is empty.

    `content` may be missing from an assistant's turn with `tool_calls`; `tool_call_id` belongs to the role `tool`.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    refusal: Literal[""] | None = None
    audio: Literal[""] | None = None
    function_call: Literal[""] | None = None
    tool_calls: list[CallInTurn] | None = None
    tool_call_id: str | None = None
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


class Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What all endpoints take."""

    model: Annotated[str, Meta(description="Id or alias of a model, or `default`.")] = "default"


class Common(Body, kw_only=True, forbid_unknown_fields=True):
    """What both kinds of completions take. `top_k`, `min_p` and `repetition_penalty` are this server's own."""

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
    logit_bias: (
        Annotated[dict[str, float], Meta(description="-100 to 100 for tokens of the model, by number.")] | UnsetType
    ) = UNSET
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
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | UnsetType = UNSET
    tool_choice: ToolChoice | UnsetType = UNSET
    parallel_tool_calls: bool | UnsetType = UNSET


class CompletionBody(Common, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/completions`. The prompt goes to the model as it is, without a chat template."""

    prompt: Annotated[
        Inputs,
        Meta(description="A prompt, or several; as text, or as the model's own tokens."),
    ]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | UnsetType = UNSET
    best_of: Annotated[int, Meta(ge=1, description="Only as many as `n`.")] | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A checked body: `n` choices for each of `prompts`. `field_names`: how this body calls our fields.

    `tooling`: the tools that an answer may call, if there are any.
    """

    model: str
    prompts: tuple[Prompt, ...]
    n: int
    stream: bool
    include_usage: bool
    seconds: float
    field_names: Mapping[str, str]
    tooling: Tooling | None = None

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
    body = convert(supported(data, ChatBody, _NOT_IN_CHAT), ChatBody, "")
    limit_name = "max_tokens" if body.max_completion_tokens is UNSET else "max_completion_tokens"
    if body.max_tokens is not UNSET and body.max_completion_tokens is not UNSET:
        raise InvalidInput("Send either max_completion_tokens or max_tokens.", field="max_tokens")
    limit = getattr(body, limit_name)
    turns = tuple(_turn(message, f"messages[{index}]") for index, message in enumerate(body.messages))
    if not any(turn.content for turn in turns):
        raise InvalidInput("At least one message with content is required.", field="messages")
    offered = tooling(body.tools, body.tool_choice, body.parallel_tool_calls)
    schema = _schema(body.response_format)
    if offered is not None:
        _check_goes_with_tools(body, schema)
        schema = offered.schema
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
        response_schema=_bounded(schema, "tools" if offered else _SCHEMA_FIELD),
        tools=offered.tools if offered else "",
    )
    names = {"max_tokens": limit_name, "logprobs": "top_logprobs"}
    if offered is not None:
        names |= {_SCHEMA_FIELD: "tools", "response_format": "tool_choice"}
    return replace(_request(body, (prompt,), names), tooling=offered)


def parse_completion(data: Any) -> CompletionRequest:
    """Raises InvalidInput."""
    body = convert(supported(data, CompletionBody, _NOT_IN_COMPLETIONS), CompletionBody, "")
    given = inputs_of(body.prompt, "prompt")
    if body.best_of is not UNSET and body.best_of != body.n:
        raise InvalidInput("best_of is supported only where it equals n.", field="best_of", details=_UNSUPPORTED)
    if len(given) * body.n > MAX_CHOICES:
        details = {"max_choices": MAX_CHOICES}
        message = f"At most {MAX_CHOICES} completions can be asked for at once: prompts times n."
        raise InvalidInput(message, field="prompt" if len(given) > 1 else "n", details=details)
    limit = _DEFAULT_COMPLETION_TOKENS if body.max_tokens is UNSET else body.max_tokens
    params = _sampling(body, limit, None if body.logprobs is UNSET else body.logprobs)
    prompts = tuple(raw_prompt(one, params) for one in given)
    return _request(body, prompts, {"text": "prompt", "raw": "prompt"})


def inputs_of(given: Inputs, field: str, *, most: int | None = None) -> list[str] | list[list[int]]:
    """One or several texts or lists of tokens, as several. Raises InvalidInput for none, an empty one, or too many."""
    is_one = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    several: list[Any] = [given] if is_one else list(given)
    if not several or not all(several):
        raise InvalidInput(f"The {field} must not be empty.", field=field)
    if most is not None and len(several) > most:
        details = {"max_items": most, "provided_items": len(several)}
        raise InvalidInput(f"At most {most} can be sent at once.", field=field, details=details)
    if all(isinstance(one, str) for one in several):
        return several
    if not all(
        isinstance(one, list) and all(isinstance(token, int) and token >= 0 for token in one) for one in several
    ):
        raise InvalidInput("It must be text, tokens (numbers from 0 on), or a list of either.", field=field)
    return several


def raw_prompt(given: str | list[int], params: SamplingParams) -> Prompt:
    """A prompt without a chat template."""
    text, tokens = (given, None) if isinstance(given, str) else (None, tuple(given))
    return Prompt(params=params, text=text, messages=None, system=None, raw=True, tokens=tokens)


_UNSUPPORTED = {"reason": "unsupported_parameter"}


def supported(data: Any, body: type[Body], not_here: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
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


def _turn(message: Message, field: str) -> ChatTurn:
    """Raises InvalidInput."""
    content, calls = message.content, message.tool_calls or []
    if calls and message.role != "assistant":
        raise InvalidInput("Only an assistant calls tools.", field=f"{field}.tool_calls")
    if (message.role == "tool") != (message.tool_call_id is not None):
        raise InvalidInput("It goes with the role tool, and only with it.", field=f"{field}.tool_call_id")
    if content is None and not calls:
        raise InvalidInput("This field is required.", field=f"{field}.content")
    text = "".join(part.text for part in content) if isinstance(content, list) else content or ""
    return ChatTurn(
        role="system" if message.role == "developer" else message.role,
        content=text,
        tool_calls=turn_calls(calls, f"{field}.tool_calls") if calls else "",
        tool_call_id=message.tool_call_id or "",
    )


def _check_goes_with_tools(body: ChatBody, schema: str) -> None:
    """Raises InvalidInput for what is not supported where the answer may be a call."""
    for field, is_there in (("response_format", schema), ("logprobs", body.logprobs)):
        if is_there:
            message = f"{field} goes with tools only where tool_choice is none."
            raise InvalidInput(message, field=field, details=_UNSUPPORTED)


def _bounded(schema: str, field: str) -> str:
    if len(schema) > MAX_SCHEMA_LENGTH:
        details = {"max_length": MAX_SCHEMA_LENGTH, "provided_length": len(schema)}
        raise InvalidInput(f"The schema is longer than {MAX_SCHEMA_LENGTH} characters.", field=field, details=details)
    return schema


def _schema(wanted: ResponseFormat | UnsetType) -> str:
    """The JSON Schema of a response format, as text; empty for plain text."""
    if wanted is UNSET or wanted.type == "text":
        return ""
    if (wanted.type == "json_schema") != (wanted.json_schema is not UNSET):
        raise InvalidInput("It goes with the type json_schema.", field="response_format.json_schema")
    schema = {"type": "object"} if wanted.json_schema is UNSET else wanted.json_schema.schema
    return msgspec.json.encode(schema).decode()


def _sampling(body: Common, max_tokens: int, logprobs: int | None) -> SamplingParams:
    stop = () if body.stop is UNSET else (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    given = {
        name: value
        for name in _SAMPLING_NAMES
        if name not in ("max_tokens", "stop", "seed", "logit_bias") and (value := getattr(body, name)) is not UNSET
    }
    seed = None if body.seed is UNSET else body.seed & MAX_SEED
    try:
        return SamplingParams(
            max_tokens=max_tokens, stop=stop, seed=seed, logprobs=logprobs, logit_bias=_biases(body), **given
        ).validate()
    except InvalidParameter as error:
        raise InvalidInput(f"{error.field} {error.message}.", field=error.field) from None


def _biases(body: Common) -> tuple[tuple[int, float], ...]:
    biases = {} if body.logit_bias is UNSET else body.logit_bias
    if not all(token.isascii() and token.isdigit() for token in biases):
        raise InvalidParameter("logit_bias", "must name tokens by their numbers")
    return tuple((int(token), bias) for token, bias in biases.items())


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
