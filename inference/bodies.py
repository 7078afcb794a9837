"""The bodies of the inference endpoints: strict types, no unknown fields, and an error that names the field.

msgspec and not REST framework's serializers: it takes no "5" for 5 and no true for 1, and costs a tenth.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from django.conf import settings
from msgspec import UNSET, Meta, UnsetType

from common.errors import InvalidInput
from engine.messages import ChatTurn
from engine.params import MAX_SEED, InvalidParameter, SamplingParams

T = TypeVar("T", bound=msgspec.Struct)

MAX_ID_LENGTH = 128
LEAST_TEMPERATURE = 0.1  # above greedy; the engine itself goes lower
_ASYNC = "Answer at once with a job, which goes on by itself."
_WEBHOOK = "Who is told when the job has ended; with `async` alone."
_AT_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_NAMED_FIELD = re.compile(r"(?P<kind>unknown|required) field `(?P<name>.*)`$", re.DOTALL)


class Parameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How the tokens are chosen; the same in every body. Ranges with gaps are checked later."""

    max_tokens: (
        Annotated[int, Meta(ge=1, le=2**31 - 1, description="Most tokens to generate. Default: 100.")] | UnsetType
    ) = UNSET
    temperature: (
        Annotated[float, Meta(ge=0, le=2, description="0 is greedy, else 0.1 to 2.0. Default: 1.0.")] | UnsetType
    ) = UNSET
    top_p: Annotated[float, Meta(gt=0, le=1, description="Nucleus sampling. Default: 1.0.")] | UnsetType = UNSET
    top_k: Annotated[int, Meta(ge=0, le=1_000_000, description="Only the k likeliest tokens. 0: off.")] | UnsetType = (
        UNSET
    )
    min_p: (
        Annotated[float, Meta(ge=0, le=1, description="Least share of the likeliest token's probability. 0: off.")]
        | UnsetType
    ) = UNSET
    repetition_penalty: (
        Annotated[float, Meta(ge=0.1, le=10, description="Above 1 discourages repeated tokens. 1: off.")] | UnsetType
    ) = UNSET
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] | UnsetType | None = UNSET
    stop: Annotated[list[str], Meta(description="Strings that end the completion.")] | UnsetType = UNSET
    ignore_eos: Annotated[bool, Meta(description="Go on to max_tokens whatever the model says.")] | UnsetType = UNSET
    raw: Annotated[bool, Meta(description="Leave the model's chat template out.")] | UnsetType = UNSET
    system: Annotated[str, Meta(description="System prompt.")] | UnsetType = UNSET


class Turn(msgspec.Struct, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Input(Parameters, kw_only=True, forbid_unknown_fields=True):
    """Parameters and a prompt: `text` or `messages`."""

    text: Annotated[str, Meta(description="The prompt.")] | UnsetType = UNSET
    messages: Annotated[list[Turn], Meta(description="Chat turns, instead of text.")] | UnsetType = UNSET


class InferBody(Input, kw_only=True, forbid_unknown_fields=True, rename={"run_async": "async"}):
    """The body of `infer` and `stream_infer`."""

    model: Annotated[str, Meta(description="Model identifier.")] = "default"
    stream: bool | UnsetType = UNSET
    timeout: Annotated[float, Meta(gt=0, description="Seconds until the request is given up.")] | UnsetType = UNSET
    run_async: Annotated[bool, Meta(description=_ASYNC)] = False
    webhook_url: Annotated[str, Meta(description=_WEBHOOK)] | UnsetType = UNSET


class BatchItem(Input, kw_only=True, forbid_unknown_fields=True):
    """One input of a batch; its parameters go before the batch's."""

    id: Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH)] | UnsetType = UNSET


class BatchBody(Parameters, kw_only=True, forbid_unknown_fields=True, rename={"run_async": "async"}):
    """The body of `batch_infer`. Its items are checked one by one, since a bad one fails alone."""

    inputs: list[Any]
    model: Annotated[str, Meta(description="Model identifier.")] = "default"
    timeout: Annotated[float, Meta(gt=0, description="Seconds until the batch is given up.")] | UnsetType = UNSET
    run_async: Annotated[bool, Meta(description=_ASYNC)] = False
    webhook_url: Annotated[str, Meta(description=_WEBHOOK)] | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be completed, and how; checked. `fills_context`: max_tokens gives way to the model's context.

    `response_schema`: the JSON Schema that the answer is held to; empty: none. `tools`: what the model may call, as a
    JSON list for its chat template. `tokens`: the prompt in the place of `text`, as the model's own tokens.
    `embed`: its embedding is wanted, and no completion.
    """

    params: SamplingParams
    text: str | None
    messages: tuple[ChatTurn, ...] | None
    system: str | None
    raw: bool
    fills_context: bool = False
    response_schema: str = ""
    tools: str = ""
    tokens: tuple[int, ...] | None = None
    embed: bool = False


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A checked body of `infer` or `stream_infer`. `seconds`: its time limit. `webhook_url`: "" for none."""

    model: str
    prompt: Prompt
    stream: bool | None
    seconds: float
    run_async: bool = False
    webhook_url: str = ""


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A checked body of `batch_infer`: (id, prompt or what is wrong with it), in input order."""

    model: str
    items: list[tuple[str, Prompt | InvalidInput]]
    seconds: float
    run_async: bool = False
    webhook_url: str = ""


def parse_infer(data: Any) -> InferRequest:
    """Raises InvalidInput."""
    body = convert(data, InferBody, "")
    return InferRequest(
        model=body.model,
        prompt=_prompt(body, body, ""),
        stream=None if body.stream is UNSET else body.stream,
        seconds=_seconds(body.timeout),
        run_async=body.run_async,
        webhook_url="" if body.webhook_url is UNSET else body.webhook_url,
    )


def parse_batch(data: Any) -> BatchRequest:
    """Raises InvalidInput for a fault of the whole batch; one of an item is in its place in `items`."""
    body = convert(data, BatchBody, "")
    _sampling(body, body, "")
    count = len(body.inputs)
    if count == 0:
        raise InvalidInput("At least one input is required.", field="inputs")
    if count > settings.MAX_BATCH_ITEMS:
        details = {"max_items": settings.MAX_BATCH_ITEMS, "provided_items": count}
        raise InvalidInput("The batch has too many inputs.", field="inputs", details=details)
    ids = _item_ids(body.inputs)
    items = [(ids[index], _item(raw, body, f"inputs[{index}]")) for index, raw in enumerate(body.inputs)]
    return BatchRequest(
        model=body.model,
        items=items,
        seconds=_seconds(body.timeout),
        run_async=body.run_async,
        webhook_url="" if body.webhook_url is UNSET else body.webhook_url,
    )


def _item_ids(inputs: Sequence[Any]) -> list[str]:
    """Each item's id, or its index. Raises InvalidInput for one that stands twice or is no id."""
    ids: list[str] = []
    seen: set[str] = set()
    for index, item in enumerate(inputs):
        field = f"inputs[{index}]"
        if not isinstance(item, dict):
            raise InvalidInput("An input must be an object.", field=field)
        item_id = item.get("id", str(index))
        if not isinstance(item_id, str) or not 1 <= len(item_id) <= MAX_ID_LENGTH:
            raise InvalidInput(f"An id must be a string of 1 to {MAX_ID_LENGTH} characters.", field=f"{field}.id")
        if item_id in seen:
            raise InvalidInput("Two inputs have the same id.", field=f"{field}.id", details={"id": item_id})
        seen.add(item_id)
        ids.append(item_id)
    return ids


def _item(raw: Any, batch: BatchBody, field: str) -> Prompt | InvalidInput:
    try:
        return _prompt(convert(raw, BatchItem, field), batch, field)
    except InvalidInput as error:
        return error


def _prompt(body: Input, defaults: Parameters, path: str) -> Prompt:
    params = _sampling(body, defaults, path)
    raw = bool(_first(body.raw, defaults.raw, False))
    system = _first(body.system, defaults.system, None)
    text = None if body.text is UNSET else body.text
    messages = None if body.messages is UNSET else tuple(ChatTurn(turn.role, turn.content) for turn in body.messages)
    if text is None and messages is None:
        raise InvalidInput("This field is required.", field=_joined(path, "text"))
    if text is not None and messages is not None:
        raise InvalidInput("Send either text or messages.", field=_joined(path, "messages"))
    if raw and (messages is not None or system is not None):
        wrong = "messages" if messages is not None else "system"
        raise InvalidInput(f"A raw prompt has no {wrong}.", field=_joined(path, "raw"))
    if messages is not None:
        _check_messages(messages, system, path)
    elif not text:
        raise InvalidInput("The text must not be empty.", field=_joined(path, "text"))
    else:
        _check_length(len(text) + len(system or ""), len(text), _joined(path, "text"), _joined(path, "system"))
    return Prompt(params=params, text=text, messages=messages, system=system, raw=raw)


def _check_messages(messages: tuple[ChatTurn, ...], system: str | None, path: str) -> None:
    field = _joined(path, "messages")
    if not any(turn.content for turn in messages):
        raise InvalidInput("At least one turn with content is required.", field=field)
    if system is not None and any(turn.role == "system" for turn in messages):
        raise InvalidInput("The messages have a system turn already.", field=_joined(path, "system"))
    length = sum(len(turn.content) for turn in messages)
    _check_length(length + len(system or ""), length, field, _joined(path, "system"))


def _check_length(total: int, prompt: int, field: str, system_field: str) -> None:
    limit = settings.MAX_TEXT_LENGTH
    if total > limit:
        too_long, provided = (field, prompt) if prompt > limit else (system_field, total)
        raise InvalidInput(
            "Input text exceeds maximum length",
            field=too_long,
            details={"max_length": limit, "provided_length": provided},
        )


def _sampling(body: Parameters, defaults: Parameters, path: str) -> SamplingParams:
    chosen: dict[str, Any] = {}
    for name in _SAMPLING_NAMES:
        value = getattr(body, name)
        if value is UNSET:
            value = getattr(defaults, name)
        if value is not UNSET:
            chosen[name] = tuple(value) if name == "stop" else value
    try:
        params = SamplingParams(**chosen).validate()
        if 0 < params.temperature < LEAST_TEMPERATURE:
            raise InvalidParameter("temperature", "must be 0 (greedy) or between 0.1 and 2.0")
    except InvalidParameter as error:
        raise InvalidInput(f"{error.field} {error.message}.", field=_joined(path, error.field)) from None
    return params


_SAMPLING_NAMES = tuple(name for name in SamplingParams.__struct_fields__ if name in Parameters.__struct_fields__)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not UNSET)


def _seconds(timeout: float | UnsetType) -> float:
    limit = settings.REQUEST_TIMEOUT
    if timeout is UNSET:
        return limit
    if not 0 < timeout <= limit:
        details = {"max_timeout": limit}
        message = f"timeout must be above 0 and at most {limit:g} seconds."
        raise InvalidInput(message, field="timeout", details=details)
    return timeout


def convert(data: Any, kind: type[T], path: str, *, strict: bool = True) -> T:
    """The body, or the part of it at `path`, as a Struct; unless `strict`, texts may be numbers.

    Raises InvalidInput that names the field.
    """
    try:
        return msgspec.convert(data, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise _named(str(error), path) from None


def _named(message: str, path: str) -> InvalidInput:
    """msgspec tells the place in its message's tail; ours goes into `details.field`."""
    if at := _AT_PATH.search(message):
        message, path = message[: at.start()], _joined(path, at["path"])
    if named := _NAMED_FIELD.search(message):
        path = _joined(path, named["name"][:100])
        message = "This field is not known" if named["kind"] == "unknown" else "This field is required"
    return InvalidInput(f"{message.replace('`', '')}.", field=path or None)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name and not name.startswith("[") else path + name
