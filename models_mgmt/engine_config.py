"""What an engine is started with, from the model's row, its deployment and the settings."""

from django.conf import settings

from common.errors import ModelLoadFailed
from engine.messages import EngineConfig
from models_mgmt.facts import shape_of
from models_mgmt.memory import OWN, own_precision
from models_mgmt.models import Deployment, Model


def engine_config(model: Model, deployment: Deployment) -> EngineConfig:
    """Raises ModelLoadFailed when the model's files have not been prepared."""
    devices = tuple(torch_device(name) for name in deployment.devices or [deployment.device])
    if model.source_kind == Model.SourceKind.ECHO:
        return EngineConfig(
            model_path="",
            runner="echo",
            device=torch_device(deployment.device),
            context_length=deployment.context_length or model.context_length or None,
            max_sequences=settings.ENGINE_MAX_SEQUENCES,
            echo_delay=settings.ECHO_DELAY_SECONDS,
        )
    if not model.path:
        raise ModelLoadFailed(f"The files of the model {model.id} have not been prepared.")
    return EngineConfig(
        model_path=model.path,
        device=devices[0],
        devices=devices if len(devices) > 1 else (),
        quantization=own_precision(_gguf_type(model)) if deployment.quantization == OWN else deployment.quantization,
        context_length=deployment.context_length,
        max_sequences=settings.ENGINE_MAX_SEQUENCES,
        prefill_chunk=settings.ENGINE_PREFILL_CHUNK,
        kv_cache_bytes=settings.ENGINE_KV_CACHE,
        threads=settings.ENGINE_THREADS,
        max_memory_bytes=deployment.max_memory_bytes,
        trust_remote_code=model.trust_remote_code,
        allow_pickle=model.allow_pickle,
    )


def _gguf_type(model: Model) -> str:
    shape = shape_of(model.shape)
    return shape.gguf_type if shape else ""


def torch_device(device: str) -> str:
    """`cuda0` → `cuda:0`; `cpu` and `mps` stay as they are."""
    return f"cuda:{device.removeprefix('cuda')}" if device.startswith("cuda") else device


def backend_of(device: str) -> str:
    """The API's name of a device's kind: `cuda`, `cpu` or `mps`."""
    return "cuda" if device.startswith("cuda") else device
