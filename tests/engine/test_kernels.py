"""The native kernels against the portable ones, on batches with several sequences, prefill and decode mixed."""

import random

import pytest
import torch

from engine.messages import Generate
from engine.params import SamplingParams
from engine.runtime.blocks import BLOCK_SIZE
from engine.runtime.detokenizer import Detokenizer
from engine.runtime.kernels.batch import pack, padded
from engine.runtime.kernels.interface import AttentionShape
from engine.runtime.kernels.native import NativeKernels, NativeUnavailable, load_library
from engine.runtime.kernels.portable import PortableKernels
from engine.runtime.scheduler import Chunk
from engine.runtime.sequence import Sequence

CPU = torch.device("cpu")
BLOCKS = 64
SHAPES = [(6, 2, 64), (4, 4, 32), (8, 1, 48), (32, 8, 128)]


def _chunks(plan: list[tuple[int, int]]) -> list[Chunk]:
    """One chunk per (start, count), in blocks scattered over the cache."""
    free = list(range(BLOCKS))
    random.Random(1).shuffle(free)
    chunks = []
    for start, count in plan:
        request = Generate("r", SamplingParams(), text="")
        sequence = Sequence(request, list(range(start + count)), Detokenizer(str))
        sequence.blocks = [free.pop() for _ in range(-(-(start + count) // BLOCK_SIZE))]
        chunks.append(Chunk(sequence, start, count, samples=True))
    return chunks


def _both(shape: AttentionShape) -> tuple[NativeKernels, PortableKernels]:
    angles = torch.outer(torch.arange(512).float(), 0.01 ** (torch.arange(shape.dim // 2) / shape.dim))
    cosine, sine = angles.cos(), angles.sin()
    try:
        native = NativeKernels(shape, BLOCKS, cosine, sine, load_library())
    except NativeUnavailable as reason:
        pytest.skip(str(reason))
    return native, PortableKernels(shape, BLOCKS, cosine, sine)


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("head_norms", [False, True])
def test_attention_agrees(
    heads: int, kv_heads: int, dim: int, dtype: torch.dtype, tolerance: float, head_norms: bool
) -> None:
    shape = AttentionShape(2, heads, kv_heads, dim, dtype, CPU)
    kernels = _both(shape)
    norms = (torch.rand(dim) + 0.5, torch.rand(dim) + 0.5) if head_norms else (None, None)
    # Each sequence's beginning first, then the mixed step: a decode, a chunk in mid-prompt, a whole prompt.
    chunks = _chunks([(100, 1), (37, 50), (0, 33), (15, 1)])
    before = [Chunk(chunk.sequence, 0, chunk.start, samples=False) for chunk in chunks if chunk.start]
    for step in (before, chunks):
        batch = pack(step, CPU)
        qkv = torch.randn(batch.padded_rows, (heads + 2 * kv_heads) * dim).to(dtype)
        results = []
        for kernel in kernels:
            kernel.begin(batch)
            results.append(kernel.attention(1, qkv, *norms, 1e-6))
    assert results[0].shape == (batch.padded_rows, heads * dim)
    assert _error(*results) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-3)])
def test_norms_and_activations_agree(dtype: torch.dtype, tolerance: float) -> None:
    native, portable = _both(AttentionShape(1, 4, 2, 32, dtype, CPU))
    for rows in (1, 7, 300):
        first, second = torch.randn(rows, 96), torch.randn(rows, 96).to(dtype)
        residuals = [first.clone(), first.clone()]
        weight = torch.rand(96) + 0.5
        found = [
            kernel.add_rms_norm(residual, second, weight, 1e-5)
            for kernel, residual in zip((native, portable), residuals, strict=True)
        ]
        assert _error(*found) < tolerance
        assert _error(*residuals) < tolerance
        gate_up = (torch.randn(rows, 64) * 8).to(dtype)
        assert _error(native.silu_mul(gate_up), portable.silu_mul(gate_up)) < tolerance * 2


def test_what_another_sequence_left_behind_never_leaks_in() -> None:
    shape = AttentionShape(1, 4, 2, 32, torch.float32, CPU)
    for kernel in _both(shape):
        chunks = _chunks([(0, 20)])
        batch = pack(chunks, CPU)
        qkv = torch.randn(batch.padded_rows, 8 * 32)
        kernel.begin(batch)
        clean = kernel.attention(0, qkv, None, None, 0)
        full = Sequence(Generate("p", SamplingParams(), text=""), list(range(32)), Detokenizer(str))
        full.blocks = chunks[0].sequence.blocks
        poison = pack([Chunk(full, 0, 32, samples=True)], CPU)
        kernel.begin(poison)
        kernel.attention(0, torch.full((32, 8 * 32), float("nan")), None, None, 0)
        kernel.begin(batch)
        assert torch.equal(kernel.attention(0, qkv, None, None, 0), clean)


def test_loading_them_leaves_denormal_numbers_alone() -> None:
    load_library()
    assert float("5e-324") > 0


def test_head_sizes_and_dtypes_without_native_kernels_are_refused() -> None:
    library = load_library()
    for dim, dtype in ((24, torch.float32), (64, torch.float16)):
        with pytest.raises(NativeUnavailable):
            NativeKernels(AttentionShape(1, 4, 2, dim, dtype, CPU), 4, torch.zeros(8, 12), torch.zeros(8, 12), library)


def test_batch_sizes_are_few() -> None:
    assert all(padded(rows) >= rows for rows in range(1, 2000))
    assert len({padded(rows) for rows in range(1, 1024)}) < 64
