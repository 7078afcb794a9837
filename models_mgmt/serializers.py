"""What the model doors take and give."""

from dataclasses import asdict
from typing import Any

from rest_framework import serializers

from common.byte_sizes import format_bytes
from common.serializers import StrictSerializer
from engine.memory import DeviceKind
from models_mgmt.deployment_serializers import DeploymentBody, deployment_bodies
from models_mgmt.expected_memory import expected_memory
from models_mgmt.facts import shape_of
from models_mgmt.live import MODEL_STATES, LiveModel
from models_mgmt.model_roots import shown
from models_mgmt.models import Model
from models_mgmt.performance import Performance


class ModelsQuery(StrictSerializer):
    loaded = serializers.BooleanField(required=False, help_text="Only models that are loaded, or only those not.")
    search = serializers.CharField(
        required=False, max_length=100, allow_blank=True, help_text="A part of an id, name, alias or architecture."
    )
    type = serializers.ChoiceField(choices=Model.Type.choices, required=False)
    source_kind = serializers.ChoiceField(choices=Model.SourceKind.choices, required=False)
    enabled = serializers.BooleanField(
        required=False, help_text="`false` lists the disabled models; takes the permission `admin`."
    )


class ModelSettings(StrictSerializer):
    """What an operator decides about a model."""

    name = serializers.CharField(required=False, max_length=200, help_text="For people.")
    type = serializers.ChoiceField(
        choices=Model.Type.choices,
        required=False,
        help_text="Normally read from the files: a model with a chat template is `chat`, or `instruct` if it is "
        "called so.",
    )
    default = serializers.BooleanField(required=False, help_text='Whether "default" means this model.')
    aliases = serializers.ListField(
        child=serializers.CharField(max_length=100),
        required=False,
        max_length=20,
        help_text="Other names of it. One that another model has moves to this one at once.",
    )
    pinned = serializers.BooleanField(required=False, help_text="Never unload it for being idle or to make room.")
    enabled = serializers.BooleanField(required=False, help_text="Whether requests may name it.")
    trust_remote_code = serializers.BooleanField(
        required=False, help_text="Run Python code that comes with the model. It can do whatever the server can."
    )
    allow_pickle = serializers.BooleanField(
        required=False, help_text="Read weights stored as pickles. They can run whatever their author wrote."
    )
    revision = serializers.CharField(
        required=False,
        max_length=100,
        allow_blank=True,
        help_text="Branch, tag or commit of a hub's repository. The commit that it means now is kept, until it is set "
        "again.",
    )


class RegisterRequest(ModelSettings):
    """A model to add to the registry."""

    source = serializers.CharField(  # type: ignore[assignment]  # a field's attribute of that name is another thing
        max_length=500,
        help_text="A repository of the hub (`org/name`), a GGUF file in one (`org/name/file.gguf`), a folder or GGUF "
        "file under a model root, or `demo`.",
    )
    source_kind = serializers.ChoiceField(
        choices=Model.SourceKind.choices, required=False, help_text="What the source is, where its name is not clear."
    )
    id = serializers.CharField(
        required=False, max_length=100, help_text="As requests will name it; by default as its source is called."
    )


class DeleteQuery(StrictSerializer):
    force = serializers.BooleanField(
        required=False, default=False, help_text="Also a model that is loaded, which ends its requests, or the default."
    )
    files = serializers.BooleanField(
        required=False, default=False, help_text="Also what a GGUF file was converted to, if no other model uses it."
    )


class ModelSummaryBody(serializers.Serializer[Any]):
    """A model in the list."""

    id = serializers.CharField()
    name = serializers.CharField()
    size = serializers.CharField()
    type = serializers.ChoiceField(choices=Model.Type.choices)
    loaded = serializers.BooleanField()
    state = serializers.ChoiceField(
        choices=MODEL_STATES, help_text="`lost`: where it was loaded, the worker is gone, and nobody else has it."
    )
    lost_on = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text='Where it was lost with its worker, such as "host/cuda0"; while there is such a place.',
    )
    default = serializers.BooleanField(help_text='Whether "default" means this model.')
    aliases = serializers.ListField(child=serializers.CharField(), help_text="Other names of it.")
    pinned = serializers.BooleanField()
    enabled = serializers.BooleanField()
    capabilities = serializers.ListField(child=serializers.CharField())
    backend = serializers.CharField(required=False, help_text="While it is loaded.")
    memory_usage = serializers.CharField(required=False, help_text='Measured, such as "6.5GB"; while it is loaded.')
    memory_usage_bytes = serializers.IntegerField(required=False)
    estimated_memory = serializers.CharField(
        required=False, help_text="What it is expected to take when it is loaded; once its files are known."
    )
    estimated_memory_bytes = serializers.IntegerField(required=False)


class FiguresBody(serializers.Serializer[Any]):
    tokens_per_second = serializers.FloatField(allow_null=True, help_text="Decode speed of one request.")
    avg_latency = serializers.FloatField(allow_null=True, help_text="Seconds per completed request, waiting included.")
    requests = serializers.IntegerField()


class EstimateBody(serializers.Serializer[Any]):
    """What a model is expected to take, in bytes, with the server's settings and the model's whole context."""

    backend = serializers.CharField(help_text="The kind of device that it was worked out for.")
    quantization = serializers.CharField()
    weights_bytes = serializers.IntegerField()
    kv_cache_bytes = serializers.IntegerField()
    overhead_bytes = serializers.IntegerField()
    total_bytes = serializers.IntegerField()
    least_bytes = serializers.IntegerField(help_text="With the smallest KV cache that it can be loaded with.")


class PerformanceBody(serializers.Serializer[Any]):
    """Measured from real requests."""

    tokens_per_second = serializers.FloatField(
        allow_null=True, help_text="Decode speed of one request, in the last hour if there were any."
    )
    avg_latency = serializers.FloatField(
        allow_null=True, help_text="Seconds per completed request, in the last hour if there were any."
    )
    total_requests = serializers.IntegerField()
    last_hour = FiguresBody()
    total = FiguresBody()


class ModelBody(ModelSummaryBody):
    """A model with all that is known about it."""

    architecture = serializers.CharField(allow_null=True)
    parameters = serializers.IntegerField(allow_null=True)
    vocab_size = serializers.IntegerField(allow_null=True)
    context_length = serializers.IntegerField(allow_null=True)
    quantization = serializers.CharField(allow_null=True)
    source_kind = serializers.ChoiceField(choices=Model.SourceKind.choices)
    source = serializers.CharField(  # type: ignore[assignment]  # as above
        help_text="A repository, or a path under its model root."
    )
    revision = serializers.CharField(allow_null=True, help_text="Branch, tag or commit asked for of a repository.")
    commit = serializers.CharField(allow_null=True, help_text="The commit that it is pinned to.")
    stored_as = serializers.CharField(allow_null=True, help_text="Type of the stored weights: `bfloat16`, `Q4_K`, …")
    disk_size = serializers.CharField(allow_null=True, help_text="Of the weights, as stored.")
    disk_size_bytes = serializers.IntegerField(allow_null=True)
    trust_remote_code = serializers.BooleanField()
    allow_pickle = serializers.BooleanField()
    created_at = serializers.DateTimeField()
    estimate = EstimateBody(allow_null=True)
    performance = PerformanceBody()
    deployments = DeploymentBody(many=True)


class ModelsResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    models = ModelSummaryBody(many=True)
    total_models = serializers.IntegerField()
    loaded_models = serializers.IntegerField()


class ModelResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    model = ModelBody()


class DeletedResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    message = serializers.CharField()
    model_id = serializers.CharField()
    freed_disk = serializers.CharField(help_text="Of the host that answers.")
    freed_disk_bytes = serializers.IntegerField()


def summary_body(live: LiveModel, kind: DeviceKind) -> dict[str, Any]:
    """`kind`: of the devices that its memory is estimated for."""
    model = live.model
    body: dict[str, Any] = {
        "id": model.id,
        "name": model.name,
        "size": model.size,
        "type": model.type,
        "loaded": live.is_loaded,
        "state": live.state,
        "default": model.is_default,
        "aliases": sorted(alias.name for alias in model.aliases.all()),
        "pinned": model.pinned,
        "enabled": model.enabled,
        "capabilities": model.capabilities,
    }
    if lost_on := live.lost_on:
        body["lost_on"] = lost_on
    if live.ready is not None:
        body["backend"] = live.ready.backend
        body |= _size("memory_usage", live.memory_bytes)
    expected = expected_memory(model, kind)
    if expected is not None:
        body |= _size("estimated_memory", expected.estimate.total)
    return body


def detail_body(live: LiveModel, performance: Performance, kind: DeviceKind) -> dict[str, Any]:
    model, ready = live.model, live.ready
    shape = shape_of(model.shape)
    return summary_body(live, kind) | {
        "architecture": (ready.architecture if ready else model.architecture) or None,
        "parameters": ready.parameters if ready else model.parameters,
        "vocab_size": ready.vocab_size if ready else model.vocab_size,
        "context_length": ready.context_length if ready else model.context_length,
        "quantization": ready.quantization if ready else None,
        "source_kind": model.source_kind,
        "source": shown_source(model),
        "revision": model.revision or None,
        "commit": model.commit or None,
        "stored_as": (shape.gguf_type or shape.dtype) if shape else None,
        "disk_size": format_bytes(shape.weight_bytes) if shape else None,
        "disk_size_bytes": shape.weight_bytes if shape else None,
        "trust_remote_code": model.trust_remote_code,
        "allow_pickle": model.allow_pickle,
        "created_at": model.created_at,
        "estimate": _estimate_body(model, kind),
        "performance": _performance_body(live, performance),
        "deployments": deployment_bodies(live),
    }


def _performance_body(live: LiveModel, performance: Performance) -> dict[str, Any]:
    lately, total = performance.lately, performance.total
    return {
        "tokens_per_second": lately.tokens_per_second or live.tokens_per_second or total.tokens_per_second,
        "avg_latency": total.avg_latency if lately.avg_latency is None else lately.avg_latency,
        "total_requests": total.requests,
        "last_hour": asdict(lately),
        "total": asdict(total),
    }


def _estimate_body(model: Model, kind: DeviceKind) -> dict[str, Any] | None:
    expected = expected_memory(model, kind)
    if expected is None:
        return None
    return {
        "backend": expected.kind,
        "quantization": expected.precision,
        "weights_bytes": expected.estimate.weights,
        "kv_cache_bytes": expected.estimate.kv_cache,
        "overhead_bytes": expected.estimate.overhead,
        "total_bytes": expected.estimate.total,
        "least_bytes": expected.estimate.least,
    }


def _size(name: str, size: int) -> dict[str, Any]:
    return {name: format_bytes(size), f"{name}_bytes": size}


def shown_source(model: Model) -> str:
    """Where a model comes from, without where that lies on this host."""
    is_local = model.source_kind in (Model.SourceKind.FOLDER, Model.SourceKind.GGUF)
    return shown(model.source or model.path) if is_local and (model.source or model.path) else model.source
