"""Bodies of loads, unloads and workers, as they come in and go out."""

from collections.abc import Sequence
from typing import Any, get_args

from rest_framework import serializers

from common.byte_sizes import format_bytes
from common.events import LoadStage
from common.serializers import StrictSerializer
from models_mgmt.deployments import LoadOptions
from models_mgmt.live import LiveModel
from models_mgmt.memory import OWN
from models_mgmt.memory_limit import MemoryLimit, parse_memory_limit
from models_mgmt.models import Deployment, Model
from models_mgmt.placement import Placement
from models_mgmt.presence import DeploymentReport, LostWorker, WorkerReport

QUANTIZATIONS = ("auto", "fp32", "bf16", "fp16", "int8", "int4", OWN)
BACKENDS = ("auto", "cuda", "cpu", "mps")
DEVICE_PATTERN = r"^([A-Za-z0-9._-]{1,200}/)?(cpu|mps|cuda\d{1,3})\Z"
MAX_REPLICAS = 64


class MemoryLimitField(serializers.CharField):
    """`80%` or `12GB`."""

    def to_internal_value(self, data: Any) -> MemoryLimit:  # type: ignore[override]  # a parsed value, not its text
        if not isinstance(data, str):
            self.fail("invalid")
        return parse_memory_limit(data, field=self.field_name or "max_memory")


class LoadBody(StrictSerializer):
    """How to load a model; everything has a default."""

    backend = serializers.ChoiceField(choices=BACKENDS, default="auto")
    quantization = serializers.ChoiceField(
        choices=QUANTIZATIONS,
        default="",
        help_text="Left out: as the server is set. gguf: as few bits as the GGUF file has that it came from.",
    )
    max_memory = MemoryLimitField(default=None, help_text='What it may take of each device: "80%" of it, or "12GB".')
    device = serializers.RegexField(
        DEVICE_PATTERN, default="", help_text='Where to, such as "cuda0" or "host/cuda0"; else where it fits best.'
    )
    devices = serializers.ListField(
        child=serializers.RegexField(DEVICE_PATTERN),
        default=list,
        max_length=16,
        help_text="Several of one host share one model; with replicas, where copies may go.",
    )
    context_length = serializers.IntegerField(default=None, min_value=16, max_value=2**24)
    replicas = serializers.IntegerField(
        default=1, min_value=1, max_value=MAX_REPLICAS, help_text="On so many devices; requests go to the least busy."
    )

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        fields = super().get_fields()
        fields["async"] = serializers.BooleanField(
            default=False, help_text="Answer 202 at once; the model's record and events tell how it goes."
        )
        return fields

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["device"] and attrs["devices"]:
            raise serializers.ValidationError({"devices": "Give either device or devices."})
        return attrs


class FitBody(LoadBody):
    """A load as it might be asked for."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        fields = super().get_fields()
        del fields["async"]
        return fields


class UnloadQuery(StrictSerializer):
    force = serializers.BooleanField(default=False, help_text="Fail what still runs instead of waiting for its end.")
    device = serializers.RegexField(DEVICE_PATTERN, default="", help_text="Only from there; else from everywhere.")


class LoadedModelBody(serializers.Serializer[Any]):
    """A model after a load. A field is missing while it is not known."""

    id = serializers.CharField()
    loaded = serializers.BooleanField()
    state = serializers.ChoiceField(choices=["loading", "loaded"])
    backend = serializers.CharField(required=False)
    quantization = serializers.CharField(required=False)
    memory_usage = serializers.CharField(required=False, help_text="Measured, over all replicas.")
    memory_usage_bytes = serializers.IntegerField(required=False)
    estimated_memory = serializers.CharField(required=False, help_text="What it was expected to take.")
    estimated_memory_bytes = serializers.IntegerField(required=False)
    load_time = serializers.FloatField(required=False, help_text="Seconds; of the slowest replica.")
    devices = serializers.ListField(child=serializers.CharField(), help_text='Such as "host/cuda0".')


class LoadResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    message = serializers.CharField()
    model = LoadedModelBody()


class PlacementBody(serializers.Serializer[Any]):
    """An engine that a load would start."""

    host = serializers.CharField()
    device = serializers.CharField(help_text="Whose worker would own it.")
    devices = serializers.ListField(child=serializers.CharField(), help_text="Where its layers would lie.")
    needed = serializers.CharField(help_text="What it would take.")
    needed_bytes = serializers.IntegerField()
    evicts = serializers.ListField(child=serializers.CharField(), help_text="Models that would be unloaded for it.")


class FitResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    fits = serializers.BooleanField()
    code = serializers.CharField(allow_null=True, help_text="With what a load would be refused.")
    reason = serializers.CharField(allow_null=True, help_text="Why it does not fit.")
    details = serializers.DictField(help_text="Figures of the reason, such as what could be unloaded.")
    placements = PlacementBody(many=True, help_text="Where it would go; none if it is loaded already.")


class UnloadResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    message = serializers.CharField()
    freed_memory = serializers.CharField(help_text="Measured, after the engine's process had ended.")
    freed_memory_bytes = serializers.IntegerField()


class DeploymentBody(serializers.Serializer[Any]):
    """The model on one device."""

    device = serializers.CharField()
    host = serializers.CharField()
    devices = serializers.ListField(child=serializers.CharField(), help_text="Where its layers lie.")
    state = serializers.ChoiceField(choices=["loading", "loaded", "unloading", "failed", "lost"])
    progress = serializers.FloatField(help_text="From 0 to 1 while it loads.")
    stage = serializers.CharField(
        help_text=f"At what a load is: {', '.join(get_args(LoadStage))}; empty unless it loads."
    )
    backend = serializers.CharField(allow_null=True)
    quantization = serializers.CharField(allow_null=True)
    memory_usage = serializers.CharField(allow_null=True, help_text="Measured.")
    memory_usage_bytes = serializers.IntegerField(allow_null=True)
    estimated_memory = serializers.CharField(allow_null=True, help_text="What it was expected to take.")
    estimated_memory_bytes = serializers.IntegerField(allow_null=True)
    load_time = serializers.FloatField(allow_null=True, help_text="Seconds.")
    running = serializers.IntegerField(help_text="Requests that run now.")
    waiting = serializers.IntegerField(help_text="Requests that wait for their turn.")
    error = serializers.CharField(help_text="Why it failed or was lost; empty unless it did.")
    error_code = serializers.CharField()


class HeldModelBody(serializers.Serializer[Any]):
    """A model that a worker has."""

    model = serializers.CharField()
    state = serializers.ChoiceField(choices=["loading", "loaded", "unloading", "failed", "lost"])
    progress = serializers.FloatField()
    stage = serializers.CharField()
    pid = serializers.IntegerField(allow_null=True)
    memory_usage = serializers.CharField(allow_null=True)
    memory_usage_bytes = serializers.IntegerField(allow_null=True)
    running = serializers.IntegerField()
    waiting = serializers.IntegerField()
    error = serializers.CharField()


class WorkerBody(serializers.Serializer[Any]):
    """A worker process, which serves one device."""

    id = serializers.CharField()
    host = serializers.CharField()
    device = serializers.CharField()
    backend = serializers.CharField()
    state = serializers.ChoiceField(choices=["running", "draining", "lost"])
    silent_seconds = serializers.FloatField(help_text="Since its last sign of life; 0 while it gives them.")
    queue = serializers.CharField()
    pid = serializers.IntegerField()
    active_requests = serializers.IntegerField()
    memory_total = serializers.CharField(allow_null=True)
    memory_total_bytes = serializers.IntegerField(allow_null=True)
    memory_free = serializers.CharField(allow_null=True)
    memory_free_bytes = serializers.IntegerField(allow_null=True)
    models = HeldModelBody(many=True)


class WorkersResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    workers = WorkerBody(many=True)
    total_workers = serializers.IntegerField()
    running_workers = serializers.IntegerField()


def load_options(body: dict[str, Any]) -> LoadOptions:
    """The options of a validated LoadBody."""
    return LoadOptions(
        backend=body["backend"],
        quantization=body["quantization"],
        max_memory=body["max_memory"],
        devices=tuple(body["devices"]) or ((body["device"],) if body["device"] else ()),
        context_length=body["context_length"],
        replicas=body["replicas"],
    )


def placement_body(placement: Placement) -> dict[str, Any]:
    return {
        "host": placement.host,
        "device": placement.device,
        "devices": list(placement.devices),
        **sized("needed", placement.needed_bytes),
        "evicts": list(placement.evicts),
    }


def loaded_model_body(model: Model, rows: Sequence[Deployment], reports: Sequence[DeploymentReport]) -> dict[str, Any]:
    """`reports`: what the workers of `rows` say of the model now, as far as they do."""
    loaded = bool(rows) and all(row.state == Deployment.State.LOADED for row in rows)
    body: dict[str, Any] = {
        "id": model.pk,
        "loaded": loaded,
        "state": "loaded" if loaded else "loading",
        "devices": [f"{row.host}/{device}" for row in rows for device in row.devices],
    }
    ready = next((report.ready for report in reports if report.ready is not None), None)
    if ready is not None:
        body |= {"backend": ready.backend, "quantization": ready.quantization}
    if loaded:
        body |= sized("memory_usage", sum(row.measured_bytes or 0 for row in rows))
        body["load_time"] = max(row.load_time or 0.0 for row in rows)
    if estimated := sum(row.estimated_bytes for row in rows):
        body |= sized("estimated_memory", estimated)
    return body


def deployment_bodies(live: LiveModel) -> list[dict[str, Any]]:
    """What the workers say of a model now, and what is known of deployments that none speaks of."""
    by_place = {(row.host, row.device): row for row in live.rows}
    bodies = [
        _deployment(worker.host, worker.device, report, by_place.get((worker.host, worker.device)))
        for worker, report in live.deployments
    ]
    for row, state in live.unspoken:
        report = DeploymentReport(model_id=row.model_id, state=state, error=row.error, error_code=row.error_code)
        bodies.append(_deployment(row.host, row.device, report, row))
    return bodies


def _deployment(host: str, device: str, report: DeploymentReport, row: Deployment | None) -> dict[str, Any]:
    ready = report.ready
    return {
        "device": device,
        "host": host,
        "devices": row.devices if row else [device],
        "state": report.state,
        "progress": round(report.progress, 3),
        "stage": report.stage,
        "backend": ready.backend if ready else None,
        "quantization": ready.quantization if ready else None,
        **sized("memory_usage", ready.memory_bytes if ready else None),
        **sized("estimated_memory", (row.estimated_bytes or None) if row else None),
        "load_time": row.load_time if row else None,
        "running": report.running,
        "waiting": report.waiting,
        "error": report.error,
        "error_code": report.error_code,
    }


def worker_body(worker: WorkerReport) -> dict[str, Any]:
    return _worker(worker, "draining" if worker.draining else "running", 0.0)


def lost_worker_body(lost: LostWorker) -> dict[str, Any]:
    return _worker(lost.report, "lost", round(lost.silent_seconds, 1))


def sized(name: str, size: int | None) -> dict[str, Any]:
    """A size as people read it, with its bytes beside it."""
    return {name: None if size is None else format_bytes(size), f"{name}_bytes": size}


def _worker(worker: WorkerReport, state: str, silent_seconds: float) -> dict[str, Any]:
    is_lost = state == "lost"
    memory = None if is_lost else worker.memory
    return {
        "id": worker.worker_id,
        "host": worker.host,
        "device": worker.device,
        "backend": worker.backend,
        "state": state,
        "silent_seconds": silent_seconds,
        "queue": worker.queue,
        "pid": worker.pid,
        "active_requests": 0 if is_lost else sum(item.in_flight for item in worker.deployments),
        **sized("memory_total", memory.total_bytes if memory else None),
        **sized("memory_free", memory.free_bytes if memory else None),
        "models": [_held(item, is_lost) for item in worker.deployments],
    }


def _held(item: DeploymentReport, is_lost: bool) -> dict[str, Any]:
    return {
        "model": item.model_id,
        "state": "lost" if is_lost else item.state,
        "progress": round(item.progress, 3),
        "stage": item.stage,
        "pid": None if is_lost else item.pid,
        **sized("memory_usage", item.ready.memory_bytes if item.ready and not is_lost else None),
        "running": 0 if is_lost else item.running,
        "waiting": 0 if is_lost else item.waiting,
        "error": item.error,
    }
