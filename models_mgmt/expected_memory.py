"""What a model is expected to take in memory as this installation would load it."""

from collections.abc import Iterable
from dataclasses import dataclass

from django.conf import settings

from engine.memory import DeviceKind
from models_mgmt.facts import shape_of
from models_mgmt.memory import MemoryEstimate, estimate, resolved_precision
from models_mgmt.models import Model
from models_mgmt.presence import WorkerReport


@dataclass(frozen=True, slots=True)
class ExpectedMemory:
    """`kind`: of the devices that it was worked out for. `precision`: what `auto` means there."""

    kind: DeviceKind
    precision: str
    estimate: MemoryEstimate


def best_kind(workers: Iterable[WorkerReport]) -> DeviceKind:
    """The kind of device that models are loaded onto before others."""
    backends = {worker.backend for worker in workers}
    if "cuda" in backends:
        return "cuda"
    return "mps" if "mps" in backends else "cpu"


def expected_memory(model: Model, kind: DeviceKind) -> ExpectedMemory | None:
    """With the settings' quantization and slots, for the model's whole context; None while its files are unknown."""
    shape = shape_of(model.shape)
    if shape is None or not shape.context_length:
        return None
    precision = resolved_precision(settings.ENGINE_QUANTIZATION, kind, shape.gguf_type)
    expected = estimate(
        shape,
        quantization=precision,
        device_kind=kind,
        context_length=None,
        max_sequences=settings.ENGINE_MAX_SEQUENCES,
        kv_cache_bytes=settings.ENGINE_KV_CACHE,
        prefill_chunk=settings.ENGINE_PREFILL_CHUNK,
    )
    return ExpectedMemory(kind, precision, expected)
