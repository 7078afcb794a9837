"""Loading and unloading of models, as anybody asks for it: an administrator, a request, the scheduler.

What is wanted is a row (`Deployment`) first; the worker of the device is told through its control queue, and writes how
it went. Two who want the same model at once find the same row, so it is loaded once.
"""

import asyncio
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import kombu.exceptions
from asgiref.sync import sync_to_async
from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from accounts.audit import SERVER, Action, Actor, record
from common.byte_sizes import format_bytes
from common.errors import ApiError, BackendUnavailable, InvalidInput, ModelLoadFailed, ModelNotFound, from_code
from common.events import ModelLoaded, publish
from common.redis import async_redis, key
from engine.messages import Ready
from models_mgmt.facts import shape_of
from models_mgmt.memory import OWN
from models_mgmt.memory_limit import MemoryLimit
from models_mgmt.models import Deployment, Model
from models_mgmt.needs import Needs
from models_mgmt.placement import Asked, DeviceFacts, Held, Placement, place
from models_mgmt.presence import WorkerReport, alive_workers, control_queue_name, live_workers

logger = logging.getLogger(__name__)

LOAD_TASK = "models_mgmt.tasks.load_deployment"
UNLOAD_TASK = "models_mgmt.tasks.unload_deployment"
UNLOAD_DELETED_TASK = "models_mgmt.tasks.unload_deleted"
State, Origin = Deployment.State, Deployment.Origin
_FIRST_LOOK_SECONDS = 0.05
_LOOK_SECONDS = 0.5
_UNTOLD_LOOKS = 6


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is to be loaded. `devices`: names such as `cuda0` or `host/cuda0`, see `placement.Asked`."""

    backend: str = "auto"
    quantization: str = ""
    max_memory: MemoryLimit | None = None
    devices: tuple[str, ...] = ()
    context_length: int | None = None
    replicas: int = 1
    origin: Deployment.Origin = Origin.ASKED


@dataclass(frozen=True, slots=True)
class Requested:
    """The deployments of a model after a request for it; `ids` are those that are still to be waited for."""

    deployments: tuple[Deployment, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UnloadTicket:
    """An unload that a worker was told of; it tells the outcome under `ticket`."""

    deployment_id: int
    place: str
    worker_id: str
    ticket: str


@dataclass(slots=True)
class Unloaded:
    """What an unload has done. `was_loaded` is False for a model that had nothing to be unloaded."""

    was_loaded: bool = False
    freed_bytes: int = 0
    places: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- load


def request_load(
    model: Model, options: LoadOptions, *, workers: Sequence[WorkerReport] | None = None, actor: Actor = SERVER
) -> Requested:
    """See to it that a model is loaded, or will be: at once, without waiting for it.

    A model that is loaded or on its way stays as it is; only replicas that are missing, or a device that was asked for
    and lacks it, get one more. Raises ApiError when nothing can be placed, ModelNotFound for a model that was deleted
    meanwhile; for a request (`origin` is demand) also the error of the last load, if that has failed a moment ago.
    """
    check_context(model, options.context_length)
    _check_quantization(model, options.quantization)
    alive = live_workers() if workers is None else workers
    take_back(alive)
    with transaction.atomic():
        # One placement after the other.
        known = set(Model.objects.select_for_update().order_by("pk").values_list("pk", flat=True))
        if model.pk not in known:
            raise ModelNotFound(details={"model": model.pk})
        rows = list(Deployment.objects.select_related("model").order_by("pk"))
        mine = [row for row in rows if row.model_id == model.pk]
        held = [row for row in mine if row.is_wanted and _worker_of(row, alive) is not None]
        missing = _missing(options, held)
        if missing:
            if options.origin != Origin.ASKED:
                _refuse_if_failed_lately(model)
            found = _placements(model, options, missing, rows=rows, held=held, alive=alive)
            placed = [_want(model, options, placement) for placement in found]
            if options.origin == Origin.ASKED:
                _note("model.load", model, actor, placed)
            held += placed
    return Requested(tuple(held), tuple(row.pk for row in held if row.state != State.LOADED))


def check_context(model: Model, wanted: int | None) -> None:
    """Raises InvalidInput for more context than the model has, as far as that is known."""
    if wanted and model.context_length and wanted > model.context_length:
        raise InvalidInput(
            f"The model's context has {model.context_length} tokens, so context_length can't be {wanted}.",
            field="context_length",
            details={"model": model.pk, "context_length": model.context_length},
        )


def _check_quantization(model: Model, wanted: str) -> None:
    shape = shape_of(model.shape)
    if wanted == OWN and (shape is None or not shape.gguf_type):
        raise InvalidInput(
            "The model comes from no GGUF file, so it has no quantization of its own.",
            field="quantization",
            details={"model": model.pk},
        )


async def load(model: Model, options: LoadOptions) -> list[Deployment]:
    """`request_load`, and wait until it is loaded. Raises ApiError with what has gone wrong."""
    requested = await sync_to_async(request_load)(model, options)
    await wait_loaded(requested.ids)
    return [row async for row in Deployment.objects.filter(pk__in=[row.pk for row in requested.deployments])]


async def wait_loaded(ids: Sequence[int]) -> None:
    """Wait until all of these are loaded. Raises the ApiError of the first that failed."""
    deadline = time.monotonic() + settings.LOAD_TIMEOUT
    pause = _FIRST_LOOK_SECONDS
    pending = set(ids)
    while pending:
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LOOK_SECONDS)
        async for row in Deployment.objects.filter(pk__in=pending):
            if row.state == State.LOADED:
                pending.discard(row.pk)
            elif not row.is_wanted:
                raise error_of(row)
        if time.monotonic() > deadline:
            raise ModelLoadFailed(f"The model was not loaded within {settings.LOAD_TIMEOUT:.0f} s.")


async def demand(model_id: str) -> str:
    """For a request: see to it that the model is on its way, and return the id of the worker that has or loads it.

    Raises ApiError.
    """
    alive = await alive_workers()
    requested = await sync_to_async(_request_by_id)(model_id, alive)
    for row in requested.deployments:
        if (worker := _worker_of(row, alive)) is not None:
            return worker.worker_id
    raise BackendUnavailable("No worker can run this model now; try again later.", retry_after=2)


def _request_by_id(model_id: str, alive: Sequence[WorkerReport]) -> Requested:
    model = Model.objects.filter(pk=model_id).first()
    if model is None:  # a web process may remember a model for a moment after it was deleted
        raise ModelNotFound(details={"model": model_id})
    return request_load(model, LoadOptions(origin=Origin.DEMAND), workers=alive)


def error_of(row: Deployment) -> ApiError:
    """Why a deployment that was wanted is not loaded."""
    if row.state in {State.UNLOADING, State.UNLOADED}:
        return BackendUnavailable("The model was unloaded while it was being loaded.")
    return from_code(row.error_code or ModelLoadFailed.code, row.error or None, row.error_details)


def _missing(options: LoadOptions, held: Sequence[Deployment]) -> int:
    """How many engines are to be started yet."""
    if options.devices:
        if len(options.devices) > 1 and options.replicas == 1:  # one model over them all
            return 0 if held else 1
        there = [row for row in held if {row.device, f"{row.host}/{row.device}"} & set(options.devices)]
        return max(0, options.replicas - len(there))
    return max(0, options.replicas - len(held))


def _refuse_if_failed_lately(model: Model) -> None:
    """A broken model is not loaded again for every request; its true error is told instead."""
    since = Now() - timedelta(seconds=settings.LOAD_RETRY_SECONDS)
    failed = Deployment.objects.filter(
        model=model, state=State.FAILED, error_code=ModelLoadFailed.code, changed_at__gt=since
    ).first()
    if failed is not None:
        raise error_of(failed)


def preview(model: Model, options: LoadOptions) -> tuple[Placement, ...]:
    """Where a load would put the model now; nothing is loaded. Raises what the load would be refused with at once.

    Without placements: it is there already.
    """
    check_context(model, options.context_length)
    alive = live_workers()
    rows = list(Deployment.objects.select_related("model").order_by("pk"))
    held = [row for row in rows if row.model_id == model.pk and row.is_wanted and _worker_of(row, alive) is not None]
    missing = _missing(options, held)
    return _placements(model, options, missing, rows=rows, held=held, alive=alive) if missing else ()


def _placements(
    model: Model,
    options: LoadOptions,
    missing: int,
    *,
    rows: Iterable[Deployment],
    held: Iterable[Deployment],
    alive: Sequence[WorkerReport],
) -> tuple[Placement, ...]:
    needs = Needs(model, _quantization(options), options.context_length)
    asked = Asked(
        model_id=model.pk,
        needs=needs.wanted,
        least=needs.least,
        backend=options.backend,
        devices=options.devices,
        replicas=missing,
        max_memory=options.max_memory,
        taken=frozenset(f"{row.host}/{device}" for row in held for device in row.devices),
        may_evict=settings.EVICT,
    )
    return place(asked, fleet_facts(alive, rows=rows))


def _quantization(options: LoadOptions) -> str:
    return options.quantization or settings.ENGINE_QUANTIZATION


def _want(model: Model, options: LoadOptions, placement: Placement) -> Deployment:
    row, _ = Deployment.objects.update_or_create(
        model=model,
        host=placement.host,
        device=placement.device,
        defaults={
            "devices": list(placement.devices),
            "state": State.REQUESTED,
            "origin": options.origin,
            "quantization": _quantization(options),
            "context_length": options.context_length,
            "max_memory_bytes": placement.cap_bytes,
            "evicts": list(placement.evicts),
            "estimated_bytes": placement.needed_bytes,
            "measured_bytes": None,
            "load_time": None,
            "error_code": "",
            "error": "",
            "error_details": {},
            "requested_at": Now(),
            "loaded_at": None,
        },
    )
    transaction.on_commit(lambda: send(LOAD_TASK, row, row.pk))
    return row


def fleet_facts(alive: Iterable[WorkerReport], *, rows: Iterable[Deployment]) -> list[DeviceFacts]:
    """What placement needs to know of the workers that take work.

    Until a model is loaded, it keeps the room that it was promised, less what its engine has taken of it by now.
    Reports may be a moment old, so what a row says of a model that was loaded or unloaded meanwhile goes before them.
    """
    workers = tuple(alive)
    known = {(row.host, row.device, row.model_id): row for row in rows}
    promised: dict[str, int] = defaultdict(int)
    for row in known.values():
        worker = _worker_of(row, workers)
        report = worker.deployment(row.model_id) if worker else None
        if not row.is_wanted or (report is not None and report.state == "loaded"):
            continue
        for device in set(row.devices):
            taken = report.device_bytes.get(device, 0) if report else 0
            promised[f"{row.host}/{device}"] += max(0, row.share_bytes - taken)
    return [
        DeviceFacts(
            host=worker.host,
            device=worker.device,
            kind=worker.backend,
            total_bytes=worker.memory.total_bytes,
            free_bytes=worker.memory.free_bytes,
            reserved_bytes=promised[f"{worker.host}/{worker.device}"],
            busy=sum(item.in_flight for item in worker.deployments),
            held=tuple(_held_by(worker, known)),
        )
        for worker in workers
        if not worker.draining and worker.memory is not None
    ]


def _held_by(worker: WorkerReport, rows: Mapping[tuple[str, str, str], Deployment]) -> Iterator[Held]:
    """The models that a worker has loaded, also those of which it has not told yet."""
    pinned = {row.model_id for row in rows.values() if row.model.pinned}
    for item in worker.deployments:
        if item.state in {"loaded", "unloading"} and item.ready is not None:
            row = rows.get((worker.host, worker.device, item.model_id))
            yield Held(
                item.model_id,
                item.device_bytes.get(worker.device, item.ready.memory_bytes),
                item.idle_seconds,
                busy=item.in_flight > 0,
                pinned=item.model_id in pinned,
                leaving=item.state == "unloading" or (row is not None and not row.is_wanted),
            )
    told = {item.model_id for item in worker.deployments if item.state != "loading"}
    for (host, device, model_id), row in rows.items():
        if (host, device) == (worker.host, worker.device) and row.state == State.LOADED and model_id not in told:
            yield Held(model_id, row.share_bytes, busy=True, pinned=model_id in pinned)


# ---------------------------------------------------------------- unload


async def unload(
    model: Model, *, force: bool = False, device: str = "", reason: str = "asked", actor: Actor = SERVER
) -> Unloaded:
    """Unload a model everywhere, or from one device, and wait until its memory is free. Raises ApiError.

    What runs is let end first, for settings.LOAD_TIMEOUT seconds at most; with `force` it fails at once.
    """
    deadline = time.monotonic() + settings.LOAD_TIMEOUT
    tickets = await sync_to_async(request_unload)(model, force=force, device=device, reason=reason, actor=actor)
    done = Unloaded()
    for ticket in tickets:
        freed = await _outcome(ticket, deadline)
        if freed is not None:
            done.was_loaded = True
            done.freed_bytes += freed
            done.places.append(ticket.place)
    return done


def request_unload(
    model: Model,
    *,
    force: bool = False,
    device: str = "",
    reason: str = "asked",
    only_if_idle_for: float | None = None,
    actor: Actor = SERVER,
) -> list[UnloadTicket]:
    """Tell the workers that hold a model to unload it; returns a ticket for each outcome."""
    alive = live_workers()
    tickets = []
    told = []
    for row in Deployment.objects.filter(model=model):
        if device and device not in {row.device, f"{row.host}/{row.device}"}:
            continue
        worker = _worker_of(row, alive)
        if worker is None:
            _not_wanted(row)
            continue
        if only_if_idle_for is None:
            if row.state in {State.UNLOADED, State.FAILED, State.LOST} and worker.deployment(row.model_id) is None:
                _not_wanted(row)
                continue
            Deployment.objects.filter(pk=row.pk).update(state=State.UNLOADING, changed_at=Now())
        ticket = secrets.token_hex(8)
        try:
            send(UNLOAD_TASK, row, row.pk, ticket, force, reason, only_if_idle_for)
        except BackendUnavailable:
            Deployment.objects.filter(pk=row.pk, state=State.UNLOADING).update(state=row.state, changed_at=Now())
            raise
        tickets.append(UnloadTicket(row.pk, f"{row.host}/{row.device}", worker.worker_id, ticket))
        told.append(row)
    if told and only_if_idle_for is None:
        _note("model.unload", model, actor, told)
    return tickets


def _not_wanted(row: Deployment) -> None:
    """There is nothing to unload, also where it is lost or has failed; it is not to come back."""
    Deployment.objects.filter(pk=row.pk).exclude(state=State.UNLOADED).update(state=State.UNLOADED, changed_at=Now())


def ticket_key(ticket: str) -> str:
    """Where a worker tells how an unload went: the bytes it freed, or `-` when there was nothing to do."""
    return key("unloaded", ticket)


async def _outcome(ticket: UnloadTicket, deadline: float) -> int | None:
    pause = _FIRST_LOOK_SECONDS
    untold = 0
    while True:
        value = await async_redis().getdel(ticket_key(ticket.ticket))
        if value is not None:
            return None if value == b"-" else int(value)
        if untold == _UNTOLD_LOOKS:  # Redis has lost what the worker told
            return 0
        if all(worker.worker_id != ticket.worker_id for worker in await alive_workers()):
            raise BackendUnavailable("The worker was lost while it unloaded the model; its memory is free.")
        if time.monotonic() > deadline:
            raise BackendUnavailable(
                f"The model was not unloaded within {settings.LOAD_TIMEOUT:.0f} s, since it is in use; "
                "unload it with force to end what runs.",
                retry_after=1,
            )
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LOOK_SECONDS)
        # A worker writes the row first, and tells under the ticket a moment later.
        is_over = await Deployment.objects.filter(pk=ticket.deployment_id, state=State.UNLOADED).aexists()
        untold = untold + 1 if is_over else 0


# ---------------------------------------------------------------- both


def take_back(alive: Iterable[WorkerReport]) -> None:
    """Call what is lost no longer so, where its worker has only been silent for a while and holds the model still."""
    for row in Deployment.objects.filter(state=State.LOST):
        worker = _worker_of(row, alive)
        report = worker.deployment(row.model_id) if worker else None
        if report is None or report.state not in {"loading", "loaded"}:
            continue
        still = Deployment.objects.filter(pk=row.pk, state=State.LOST)
        if still.update(state=report.state, error="", changed_at=Now()):
            logger.warning("%s is there again", row)
            if report.ready is not None:
                publish(_loaded_again(row, report.ready))


def _loaded_again(row: Deployment, ready: Ready) -> ModelLoaded:
    return ModelLoaded(
        model=row.model_id,
        host=row.host,
        device=row.device,
        backend=ready.backend,
        quantization=ready.quantization,
        memory_usage=format_bytes(ready.memory_bytes),
        memory_usage_bytes=ready.memory_bytes,
        load_time=row.load_time or 0.0,
    )


def send(task: str, to: Deployment | WorkerReport, *arguments: object) -> None:
    """Put a task into the control queue of a worker, or of a deployment's. Raises BackendUnavailable without the
    broker."""
    try:
        current_app.send_task(task, arguments, queue=control_queue_name(to.host, to.device), ignore_result=True)
    except (kombu.exceptions.OperationalError, OSError) as error:
        raise BackendUnavailable("The server's queue can't be reached; try again.", retry_after=1) from error


def _note(action: Action, model: Model, actor: Actor, rows: Iterable[Deployment]) -> None:
    places = ", ".join(f"{row.host}/{row.device}" for row in rows)
    before, after = (None, places) if action == "model.load" else (places, None)
    record(
        action,
        actor=actor,
        target_type="model",
        target_id=model.pk,
        target_name=model.name,
        changes={"deployments": (before, after)},
    )


def _worker_of(row: Deployment, alive: Iterable[WorkerReport]) -> WorkerReport | None:
    return next(
        (item for item in alive if (item.host, item.device) == (row.host, row.device) and not item.draining), None
    )
