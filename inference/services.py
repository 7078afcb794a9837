"""What can be asked of the models: one completion, a stream of it, a batch."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from django.conf import settings

from accounts import budgets
from accounts.caller import Caller, TokenBudget
from common.direct_body import DirectBody
from common.errors import UNLOADED, ApiError, BackendUnavailable, InvalidInput, ModelNotFound
from common.passage import arrival
from engine.messages import BACKGROUND_PRIORITY, Finished, Generate
from inference.bodies import BatchRequest, InferRequest, Prompt
from inference.calls import Call
from inference.gateway import Gateway, gateway
from inference.messages import Kind
from inference.results import figures, result
from inference.sse import EventStream, InferLines, Lines
from inference.task_message import BACKGROUND, GOES_FIRST, STANDARD
from inference.token_bound import held_to_bounds, least_tokens
from models_mgmt.models import Model
from models_mgmt.selectors import aresolve_model, forget_models

Item = tuple[str, Prompt | InvalidInput]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose request it is, under which id, and through which door. What the answer's headers must tell goes there.

    `background`: nobody waits for it; it gives way to all other requests and takes none of their places in the queue.
    """

    caller: Caller
    request_id: str
    kind: Kind
    headers: dict[str, str]
    background: bool = False


async def with_model(name: str | None, work: Callable[[Model], Awaitable[T]]) -> T:
    """Do something with the model that a name means.

    A name that this process remembers may have moved to another model, and the one before been deleted or unloaded:
    then it is looked up anew, and done with the model that it means now. Raises ApiError.
    """
    model = await aresolve_model(name)
    try:
        return await work(model)
    except (ModelNotFound, BackendUnavailable) as error:
        if isinstance(error, BackendUnavailable) and error.details.get("reason") != UNLOADED:
            raise
        forget_models()
        successor = await aresolve_model(name)
        if successor.pk == model.pk:
            raise
        return await work(successor)


def check_fits(model: Model, prompt: Prompt) -> None:
    """Raise InvalidInput for what the model's row alone tells it can't do; the engine checks the rest."""
    context = model.context_length
    if context is not None and prompt.params.max_tokens >= context and not prompt.fills_context:
        details = {"max_tokens": prompt.params.max_tokens, "context_length": context}
        raise InvalidInput("max_tokens must leave room in the model's context.", field="max_tokens", details=details)
    if model.type == Model.Type.BASE and model.source_kind != Model.SourceKind.ECHO:
        for field in ("messages", "system"):
            if getattr(prompt, field) is not None:
                raise InvalidInput("A base model has no chat template; send text alone.", field=field)


async def infer(*, request: InferRequest, origin: Origin) -> dict[str, Any]:
    """Run one request to its end and return its result. Raises ApiError."""
    road = gateway()

    async def run(model: Model) -> dict[str, Any]:
        check_fits(model, request.prompt)
        (call,) = await _submit(road, model, [request.prompt], origin, seconds=request.seconds, stream=False)
        try:
            return result(call, await call.result())
        finally:
            road.close(call)

    return await with_model(request.model, run)


async def stream_infer(*, request: InferRequest, origin: Origin, body: DirectBody | None = None) -> EventStream:
    """Start one request and return its events once an engine has accepted it. Raises ApiError.

    What takes longer, above all a model that is loaded for it, is waited for in the stream, which is kept alive.
    `body` is the response's body, if its server lets us write to it.
    """
    started_at = arrival()
    road = gateway()

    async def start(model: Model) -> EventStream:
        check_fits(model, request.prompt)
        (call,) = await _submit(road, model, [request.prompt], origin, seconds=request.seconds, stream=True)
        try:
            await call.accepted(settings.SSE_KEEP_ALIVE_SECONDS)
        except BaseException:
            road.close(call)
            raise
        lines = InferLines(call, request_id=origin.request_id, started_at=started_at)
        return EventStream(road, [call], lines, body=body)

    return await with_model(request.model, start)


async def complete(
    *, model_name: str, prompts: Sequence[Prompt], seconds: float, origin: Origin
) -> tuple[Model, list[Finished]]:
    """Run several completions to their ends, in one job; the first that fails fails all. Raises ApiError."""
    road = gateway()

    async def run(model: Model) -> tuple[Model, list[Finished]]:
        for prompt in prompts:
            check_fits(model, prompt)
        calls = await _submit(road, model, prompts, origin, seconds=seconds, stream=False)
        try:
            return model, [await call.result() for call in calls]
        finally:
            road.close(*calls)

    return await with_model(model_name, run)


async def stream_completions(
    *,
    model_name: str,
    prompts: Sequence[Prompt],
    seconds: float,
    origin: Origin,
    lines: Callable[[Model], Lines],
    body: DirectBody | None = None,
) -> EventStream:
    """`complete` as a stream of `lines`, which begins as that of `stream_infer` does. Raises ApiError."""
    road = gateway()

    async def start(model: Model) -> EventStream:
        for prompt in prompts:
            check_fits(model, prompt)
        calls = await _submit(road, model, prompts, origin, seconds=seconds, stream=True)
        try:
            await asyncio.gather(*(call.accepted(settings.SSE_KEEP_ALIVE_SECONDS) for call in calls))
        except BaseException:
            road.close(*calls)
            raise
        return EventStream(road, calls, lines(model), body=body)

    return await with_model(model_name, start)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The results in input order, and the device they ran on ("" when none did)."""

    results: list[dict[str, Any]]
    failed: int
    backend: str


async def batch_infer(*, request: BatchRequest, origin: Origin) -> BatchResult:
    """Run a batch to its end; a bad item has an `error` in its result.

    Raises ApiError when the whole batch fails, also when every good item of it failed by no fault of its own.
    """
    return await with_model(request.model, lambda model: _run_batch(model, request, origin))


async def _run_batch(model: Model, request: BatchRequest, origin: Origin) -> BatchResult:
    items = [(item_id, _fitting(model, prompt)) for item_id, prompt in request.items]
    prompts = [prompt for _, prompt in items if isinstance(prompt, Prompt)]
    if not prompts:
        return _assembled(items, iter(()), backend="")
    road = gateway()
    calls = await _submit(road, model, prompts, origin, seconds=request.seconds, stream=False)
    try:
        outcomes = await asyncio.gather(*(_outcome(call) for call in calls))
    finally:
        road.close(*calls)
    errors = [outcome for outcome in outcomes if isinstance(outcome, ApiError)]
    by_no_fault = all(error.status >= 500 or isinstance(error, ModelNotFound) for error in errors)
    if len(errors) == len(outcomes) and by_no_fault:
        raise errors[0]
    return _assembled(items, iter(outcomes), backend=next((call.backend for call in calls if call.backend), ""))


def _fitting(model: Model, prompt: Prompt | InvalidInput) -> Prompt | InvalidInput:
    if isinstance(prompt, Prompt):
        try:
            check_fits(model, prompt)
        except InvalidInput as error:
            return error
    return prompt


async def _outcome(call: Call) -> dict[str, Any] | ApiError:
    try:
        end = await call.result()
    except ApiError as error:
        return error
    return {"generated_text": end.text, **figures(call, end)}


def _assembled(items: list[Item], outcomes: Iterator[dict[str, Any] | ApiError], *, backend: str) -> BatchResult:
    results: list[dict[str, Any]] = []
    failed = 0
    for index, (item_id, prompt) in enumerate(items):
        outcome: Any = prompt if isinstance(prompt, InvalidInput) else next(outcomes)
        if isinstance(outcome, ApiError):
            failed += 1
            results.append({"id": item_id, "error": _described(outcome, index)})
        else:
            results.append({"id": item_id, **outcome})
    return BatchResult(results=results, failed=failed, backend=backend)


def _described(error: ApiError, index: int) -> dict[str, Any]:
    """An item's error; a field that an engine has named gets its place in the batch."""
    details = dict(error.details)
    field = details.get("field")
    if isinstance(field, str) and not field.startswith("inputs["):
        details["field"] = f"inputs[{index}].{field}"
    return {"code": error.code, "message": error.message, "details": details}


async def _submit(
    road: Gateway, model: Model, prompts: Sequence[Prompt], origin: Origin, *, seconds: float, stream: bool
) -> list[Call]:
    _, _, goes_first = settings.TIERS[origin.caller.tier]
    budget = origin.caller.budget
    requests = [
        Generate(
            request_id=road.new_id(origin.request_id),
            params=prompt.params,
            text=prompt.text,
            messages=prompt.messages,
            system=prompt.system,
            raw=prompt.raw or (model.type == Model.Type.BASE and prompt.messages is None),
            priority=BACKGROUND_PRIORITY if origin.background else 1 if goes_first else 0,
            stream=stream,
            fills_context=prompt.fills_context,
            response_schema=prompt.response_schema,
            tools=prompt.tools,
            tokens=prompt.tokens,
            embed=prompt.embed,
            cache_salt="" if settings.SHARED_PREFIX_CACHE else _cache_owner(origin.caller),
        )
        for prompt in prompts
    ]
    ids = [request.request_id for request in requests]
    try:
        if budget is not None:
            requests = await _reserved(requests, budget, model, origin, seconds)
        return await road.submit(
            requests,
            request_id=origin.request_id,
            kind=origin.kind,
            model_id=model.id,
            seconds=seconds,
            user_id=origin.caller.user_id,
            key_id=origin.caller.key_id,
            budgeted=budget is not None,
            broker_priority=BACKGROUND if origin.background else GOES_FIRST if goes_first else STANDARD,
        )
    except BaseException:  # above all a client that has gone meanwhile
        if budget is not None:
            await budgets.release(ids)
        raise


async def _reserved(
    requests: list[Generate], budget: TokenBudget, model: Model, origin: Origin, seconds: float
) -> list[Generate]:
    """The requests, held to what was reserved of the key's budget for each."""
    asked = held_to_bounds(requests, model.context_length, budget)
    tokens = {request.request_id: request.most_tokens or 0 for request in asked}
    key_id = origin.caller.key_id or 0
    standing = await budgets.reserve(key_id, budget, tokens, seconds=seconds, least=least_tokens(requests))
    origin.headers.update(standing.headers)
    return [
        msgspec.structs.replace(request, most_tokens=min(request.most_tokens or 0, standing.most)) for request in asked
    ]


def _cache_owner(caller: Caller) -> str:
    """Whose prompts a caller shares computed beginnings with: those of the same user, or the same address."""
    return caller.identity if caller.user_id is None else f"user:{caller.user_id}"
