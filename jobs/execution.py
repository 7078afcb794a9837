"""Runs one item: the same services as for a request that somebody waits for, in the background."""

from dataclasses import dataclass
from typing import Any, cast

from accounts.caller import Caller
from common.errors import ApiError, InferenceFailed, InvalidInput
from inference import services
from inference.bodies import InferRequest, Prompt, parse_batch
from inference.messages import Kind
from inference.openai_door.whole import complete_body
from inference.services import Origin
from jobs import results

_NATIVE = ("infer", "batch_infer")


@dataclass(frozen=True, slots=True)
class Item:
    """An item as it is sent: whose, what, and the parameters of all items of its job."""

    pk: int
    job_id: str
    index: int
    custom_id: str
    attempts: int
    kind: str
    model: str
    is_openai: bool
    body: dict[str, Any]
    defaults: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of an item: the line of its result, and what it took."""

    item: Item
    is_good: bool
    line: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


async def run(item: Item, caller: Caller) -> Outcome:
    """Raises ApiError; `failed` makes an outcome of one that is to stay."""
    origin = Origin(
        caller=caller,
        request_id=results.request_id_of(item.job_id, item.index),
        kind=cast(Kind, item.kind),
        headers={},
        background=True,
    )
    answer = await (_native(item, origin) if item.kind in _NATIVE else complete_body(item.body, origin))
    usage = answer.get("usage") or {
        "prompt_tokens": answer.get("prompt_tokens", 0),
        "completion_tokens": answer.get("tokens_generated", 0),
    }
    line = results.completed(
        is_openai=item.is_openai, job_id=item.job_id, index=item.index, custom_id=item.custom_id, answer=answer
    )
    return Outcome(item, True, line, usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))


def failed(item: Item, error: ApiError) -> Outcome:
    line = results.failed(
        is_openai=item.is_openai, job_id=item.job_id, index=item.index, custom_id=item.custom_id, error=error
    )
    return Outcome(item, False, line)


async def _native(item: Item, origin: Origin) -> dict[str, Any]:
    body = {name: value for name, value in item.body.items() if name != "id"}
    try:
        batch = parse_batch({**item.defaults, "inputs": [body]})
        ((_, prompt),) = batch.items
        if not isinstance(prompt, Prompt):
            raise prompt
        request = InferRequest(model=batch.model, prompt=prompt, stream=None, seconds=batch.seconds)
        answer = await services.infer(request=request, origin=origin)
    except InvalidInput as error:
        field = error.details.get("field")
        if isinstance(field, str):
            error.details["field"] = field.removeprefix("inputs[0].")
        raise
    if answer["finish_reason"] == "cancelled":
        raise InferenceFailed("The request was cancelled before its end.")
    return answer
