"""What a model will take in memory, before it is loaded: the engine's own plan, from the facts in its files."""

import platform
import re
from pathlib import Path

import msgspec

from engine.memory import FAST_MODEL_TYPES, LEAST_TOKENS, DeviceKind, Dimensions, kv_bytes_per_token, plan
from models_mgmt.inspection import ModelShape

# What the engine holds a GGUF's weights in without loss (`engine.runtime.convert`).
_LOSSLESS = {"Q4_1": "int4"}
OWN = "gguf"  # as precise as the GGUF file that the weights came from
_GGUF_BITS = re.compile(r"(?:T?I?Q|MXFP|NVFP)(\d)")


class MemoryEstimate(msgspec.Struct, frozen=True):
    """Bytes on the model's devices together. `least`: what a load needs at least, with the smallest KV cache that it
    accepts; between `least` and `total` the cache shrinks to what is free."""

    weights: int
    kv_cache: int
    overhead: int
    total: int
    least: int


def estimate(
    shape: ModelShape,
    *,
    quantization: str,
    device_kind: DeviceKind,
    context_length: int | None,
    max_sequences: int,
    kv_cache_bytes: int = 0,
    max_memory_bytes: int = 0,
    prefill_chunk: int = 512,
) -> MemoryEstimate:
    """Weights at the precision, KV cache for the context and the sequences, and everything else that an engine takes.

    `context_length`: None or 0 for the model's own; `max_sequences`, `kv_cache_bytes`, `max_memory_bytes` and
    `prefill_chunk` are those of the engine's configuration.
    """
    precision = resolved_precision(quantization, device_kind, shape.gguf_type)
    context = min(context_length or shape.context_length, shape.context_length)
    model = _dimensions(shape)
    planned = plan(
        model,
        precision=precision,
        kind=device_kind,
        context_length=context,
        max_sequences=max_sequences,
        kv_cache_bytes=kv_cache_bytes,
        max_memory_bytes=max_memory_bytes,
        prefill_chunk=prefill_chunk,
    )
    least_tokens = context if context_length else min(context, LEAST_TOKENS)
    smallest_cache = least_tokens * kv_bytes_per_token(model, precision)
    return MemoryEstimate(
        weights=planned.weights,
        kv_cache=planned.kv_cache,
        overhead=planned.overhead,
        total=planned.total,
        least=planned.least + smallest_cache,
    )


def resolved_precision(quantization: str, device_kind: DeviceKind, gguf_type: str = "") -> str:
    """What `auto` becomes on a device of this host, and OWN for such a file; everything else stays."""
    if quantization == OWN:
        return own_precision(gguf_type)
    if quantization != "auto":
        return quantization
    if device_kind == "mps":
        return "fp16"
    if device_kind == "cuda":
        return "bf16"
    if not cpu_multiplies_bf16():
        return "fp32"
    return _LOSSLESS.get(gguf_type, "bf16")


def own_precision(gguf_type: str) -> str:
    """The narrowest precision that has no fewer bits than a GGUF file's own (`Q5_K` has 5)."""
    bits = _GGUF_BITS.match(gguf_type)
    if bits is None:
        return "bf16"
    return "int4" if int(bits[1]) <= 4 else "int8"


def cpu_multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether torch's oneDNN takes bf16 on this CPU: with AVX-512 on x86, BF16 on Arm."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:  # no Linux: Apple's CPUs, which oneDNN isn't built for
        return False
    flags = next((set(line.split()) for line in lines if line.startswith(("flags", "Features"))), set())
    if platform.machine() in ("aarch64", "arm64"):
        return "bf16" in flags
    return {"avx512bw", "avx512vl", "avx512dq"} <= flags


def _dimensions(shape: ModelShape) -> Dimensions:
    return Dimensions(
        layers=shape.layers,
        hidden=shape.hidden_size,
        intermediate=shape.intermediate_size,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocabulary=shape.vocab_size,
        tied=shape.tied_embeddings,
        fast=shape.model_type in FAST_MODEL_TYPES,
        parameters=shape.parameters,
    )
