"""What an engine takes in memory, worked out from a model's shape alone. The engine plans its loads by this, and so can
those who decide where a model fits. Sizes are in bytes; what each rule mirrors in the engine is named beside it.
"""

from typing import Literal

import msgspec

DeviceKind = Literal["cpu", "cuda", "mps"]

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int4")
# The families whose decoders are LLaMA-shaped and run on the engine's own path (`llama.is_llama_shaped` has the rest).
FAST_MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
BLOCK_TOKENS = 16  # of the KV cache
GROUP = 32  # inputs that share a scale in int4
# The default cache: so many tokens for each sequence, on average; and one of them may always fill its whole context.
SEQUENCE_TOKENS = 1024
# What is left of a context that nobody asked for by its length, when memory is short; less is a failed load.
LEAST_TOKENS = 256
# Dense weights up to this size are kept beside 4-bit ones on the CPU, where they are faster for larger batches.
TWIN_LIMIT = 2 * 1024**3
# 8-bit weights are multiplied as they are for up to so many rows, and made dense for more, one layer at a time.
INT8_ROWS = 64
_MIB = 1024**2
# Measured in fresh processes with torch 2.13: the interpreter, torch, transformers and their share of libraries.
_PROCESS = 335 * _MIB
# A vocabulary's tokenizer, per token; measured with 32,000 to 128,000 of them.
_TOKENIZER = 350
# Of a step's working memory on the CPU, what the C library keeps for the next one; the rest comes and goes.
_KEPT = 32 * _MIB
# Measured by nobody yet where this was written: a CUDA context with its kernels, the workspace of cuBLAS.
CUDA_CONTEXT = 600 * _MIB
# PagedCache gathers the keys and values of so many tokens at a time, or of one sequence, and attends to copies of them.
GATHERED_TOKENS = 32 * 1024


class Dimensions(msgspec.Struct, frozen=True):
    """A decoder's shape. `fast`: it runs on the engine's own path; else through its transformers module.

    `parameters`: all of them, tied ones once; only models that aren't `fast` need it.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    fast: bool
    parameters: int = 0

    @property
    def linears(self) -> int:
        """Weights in the layers' matrices: fused QKV, output, fused gate and up, down."""
        return self.layers * sum(outputs * inputs for outputs, inputs in self.matrices)

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """[outputs, inputs] of one layer's matrices."""
        attention = self.heads * self.head_dim
        return (
            (attention + 2 * self.kv_heads * self.head_dim, self.hidden),
            (self.hidden, attention),
            (2 * self.intermediate, self.hidden),
            (self.hidden, self.intermediate),
        )


class MemoryPlan(msgspec.Struct, frozen=True):
    """`twin`: whether int4 keeps dense weights beside. `kv_tokens`: how many the cache holds. `least`: what it takes
    without twin and cache."""

    weights: int
    kv_cache: int
    overhead: int
    kv_tokens: int
    twin: bool
    least: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.overhead


def plan(
    model: Dimensions,
    *,
    precision: str,
    kind: DeviceKind,
    context_length: int,
    max_sequences: int,
    kv_cache_bytes: int = 0,
    max_memory_bytes: int = 0,
    prefill_chunk: int = 512,
) -> MemoryPlan:
    """What loading takes: as much as is good, and within `max_memory_bytes` as little as that asks for.

    The dense twin goes first, then the KV cache shrinks, down to nothing if need be: whether what is left of it is
    enough is the caller's to judge.
    """
    overhead = overhead_bytes(
        model,
        precision=precision,
        kind=kind,
        context_length=context_length,
        max_sequences=max_sequences,
        prefill_chunk=prefill_chunk,
    )
    per_block = BLOCK_TOKENS * kv_bytes_per_token(model, precision)
    blocks = cache_blocks(context_length, max_sequences)
    if kv_cache_bytes:
        blocks = min(kv_cache_bytes // per_block, max_sequences * -(-context_length // BLOCK_TOKENS))
    twin = keeps_twin(model, precision, kind)
    weights = weight_bytes(model, precision, kind, twin=twin)
    if max_memory_bytes:
        if twin and weights + overhead + blocks * per_block > max_memory_bytes:
            twin = False
            weights = weight_bytes(model, precision, kind, twin=twin)
        blocks = max(0, min(blocks, (max_memory_bytes - weights - overhead) // per_block))
    least = weight_bytes(model, precision, kind, twin=False) + overhead
    return MemoryPlan(weights, blocks * per_block, overhead, blocks * BLOCK_TOKENS, twin, least)


def cache_blocks(context_length: int, max_sequences: int) -> int:
    """Blocks of the default KV cache: one whole context, or SEQUENCE_TOKENS for each sequence, whichever is more."""
    whole = -(-context_length // BLOCK_TOKENS)
    return max(whole, max_sequences * min(whole, SEQUENCE_TOKENS // BLOCK_TOKENS))


def kv_bytes_per_token(model: Dimensions, precision: str) -> int:
    """One token's keys and values in all layers."""
    return 2 * model.layers * model.kv_heads * model.head_dim * activation_size(precision)


def activation_size(precision: str) -> int:
    """Bytes of an activation and of a cached value: weights of 8 and 4 bits are multiplied with 16-bit activations."""
    return 4 if precision == "fp32" else 2


def keeps_twin(model: Dimensions, precision: str, kind: DeviceKind) -> bool:
    """Whether 4-bit weights have dense ones beside them, for larger batches (`linears.Int4Linear`)."""
    return precision == "int4" and kind == "cpu" and model.fast and model.linears * 2 <= TWIN_LIMIT


def weight_bytes(model: Dimensions, precision: str, kind: DeviceKind, *, twin: bool) -> int:
    """What the weights take once they are laid out (`llama.LlamaModel`, `linears`)."""
    size = activation_size(precision)
    if not model.fast:
        return model.parameters * size
    vocabulary = model.vocabulary * model.hidden
    norms = (2 * model.layers + 1) * model.hidden * 4
    embedding = vocabulary * size
    quantised = precision in ("int8", "int4")
    if quantised and not twin:
        head = vocabulary + model.vocabulary * size
    elif model.tied and (kind != "cpu" or precision == "fp16"):
        head = 0  # the embedding's own weights; only the CPU's prepacked ones are a copy
    else:
        head = vocabulary * size
    outputs = model.layers * sum(outputs for outputs, _ in model.matrices)
    layers = {
        "int8": model.linears + outputs * size,
        "int4": model.linears // 2 + model.linears // GROUP * 2 * size,
    }.get(precision, model.linears * size)
    return embedding + head + norms + layers + (model.linears * size if twin else 0)


def overhead_bytes(
    model: Dimensions, *, precision: str, kind: DeviceKind, context_length: int, max_sequences: int, prefill_chunk: int
) -> int:
    """Everything beside weights and cache: the process itself or its CUDA context, the rotary table, activations."""
    rotary = context_length * model.head_dim * 4 if model.fast else 0
    activations = activation_bytes(
        model, precision, kind, rows=prefill_chunk, max_sequences=max_sequences, context_length=context_length
    )
    if kind == "cuda":
        return CUDA_CONTEXT + rotary + activations
    return _PROCESS + model.vocabulary * _TOKENIZER + rotary + min(activations, _KEPT)


def activation_bytes(
    model: Dimensions, precision: str, kind: DeviceKind, *, rows: int, max_sequences: int, context_length: int
) -> int:
    """The most that a step holds at once: `rows` prompt tokens in a layer, or the logits of all sequences."""
    size = activation_size(precision)
    attention = (model.heads + 2 * model.kv_heads) * model.head_dim
    layer = rows * (model.hidden * (4 + size) + max(attention * (4 + size), 3 * model.intermediate * size))
    logits = max_sequences * model.vocabulary * (size + 4)
    unpacked = max(outputs * inputs for outputs, inputs in model.matrices) * size if precision == "int8" else 0
    gathered = 0
    if kind != "cpu" or not model.fast:
        gathered = 4 * max(GATHERED_TOKENS, context_length) * model.kv_heads * model.head_dim * size
    return max(layer + unpacked + gathered, logits)
