"""What a LLaMA-shaped layer needs besides matrix products; `native` and `portable` each provide it."""

from dataclasses import dataclass
from typing import Protocol

import torch

from engine.runtime.kernels.batch import StepBatch


@dataclass(frozen=True)
class AttentionShape:
    """heads, kv_heads: how many of each; dim: of one head; dtype: of activations and cache."""

    layers: int
    heads: int
    kv_heads: int
    dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def scale(self) -> float:
        return float(self.dim**-0.5)


class Kernels(Protocol):
    """Kernels with their KV cache. Rows are tokens; `residual` is float32 [rows, hidden], the rest in the dtype."""

    @property
    def cache_bytes(self) -> int:
        """What the KV cache takes."""

    def begin(self, batch: StepBatch) -> None:
        """Prepare a step; the calls that follow belong to it."""

    def add_rms_norm(
        self, residual: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """Add `delta` to `residual` in place and return its RMS norm (Zhang & Sennrich 2019) times `weight`."""

    def attention(
        self,
        layer: int,
        qkv: torch.Tensor,
        q_norm: torch.Tensor | None,
        k_norm: torch.Tensor | None,
        epsilon: float,
    ) -> torch.Tensor:
        """Rotate (RoPE, Su et al. 2021), store keys and values, attend causally; qkv: [rows, (heads + 2 kv_heads) dim].

        Returns [rows, heads * dim].
        """

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up of [rows, 2 * width] as [rows, width] (SwiGLU, Shazeer 2020)."""
