"""The same kernels in plain torch operations: CUDA, MPS, and CPUs without a C compiler."""

import torch
from torch.nn import functional

from engine.memory import GATHERED_TOKENS
from engine.runtime.blocks import BLOCK_SIZE
from engine.runtime.kernels.batch import Span, StepBatch
from engine.runtime.kernels.interface import AttentionShape


class PagedCache:
    """Keys and values as [layers, slots, kv_heads, dim], and causal attention over them."""

    def __init__(self, shape: AttentionShape, blocks: int) -> None:
        self.shape = shape
        size = (shape.layers, blocks * BLOCK_SIZE, shape.kv_heads, shape.dim)
        self._keys = torch.zeros(*size, dtype=shape.dtype, device=shape.device)
        self._values = torch.zeros(*size, dtype=shape.dtype, device=shape.device)

    @property
    def bytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes

    def begin(self, batch: StepBatch) -> None:
        self.slots = batch.slots
        groups = [[span] for span in batch.spans if span.count > 1]
        groups += _alike([span for span in batch.spans if span.count == 1])
        self._groups = [(spans, *self._layout(spans)) for spans in groups]

    def store(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """keys, values: [rows, kv_heads, dim] of the step's rows."""
        self._keys[layer, self.slots] = keys
        self._values[layer, self.slots] = values

    def attend(
        self, layer: int, queries: torch.Tensor, scale: float, *, window: int = 0, softcap: float = 0.0
    ) -> torch.Tensor:
        """queries: [rows, heads, dim]; returns the same shape. `window`: how many tokens are seen, 0 for all;
        `softcap`: scores become softcap * tanh(score / softcap), 0 for not."""
        out = torch.empty_like(queries)
        for spans, slots, positions, rows in self._groups:
            query = queries[rows].unflatten(0, (len(spans), -1)).transpose(1, 2)  # [sequences, heads, rows, dim]
            key = self._keys[layer, slots].transpose(1, 2)  # [sequences, kv_heads, tokens, dim]
            value = self._values[layer, slots].transpose(1, 2)
            places = torch.arange(slots.shape[1], device=slots.device)
            seen = places <= positions[..., None]  # [sequences, rows, tokens]
            if window:
                seen &= places > positions[..., None] - window
            found = _attention(query, key, value, seen[:, None], scale, softcap)
            out[rows] = found.transpose(1, 2).flatten(0, 1)
        return out

    def _layout(self, spans: list[Span]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """slots: [sequences, tokens]; positions: [sequences, rows of each]; rows: where they are in the batch."""
        device = self.shape.device
        width = max(len(span.blocks) for span in spans)
        tables = torch.tensor([span.blocks + [0] * (width - len(span.blocks)) for span in spans], device=device)
        slots = (tables[..., None] * BLOCK_SIZE + torch.arange(BLOCK_SIZE, device=device)).flatten(1)
        positions = torch.tensor([list(range(span.start, span.start + span.count)) for span in spans], device=device)
        rows = torch.tensor([row for span in spans for row in range(span.row, span.row + span.count)], device=device)
        return slots, positions, rows


def _alike(decodes: list[Span]) -> list[list[Span]]:
    """Sequences of similar length together, few enough for each group's keys and values to be gathered at once."""
    groups: list[list[Span]] = []
    for span in sorted(decodes, key=lambda span: len(span.blocks)):
        width = len(span.blocks) * BLOCK_SIZE  # the longest of its group, so that the others are padded to it
        if groups and (len(groups[-1]) + 1) * width <= GATHERED_TOKENS:
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor, scale: float, softcap: float
) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    # What lies behind the last token is another sequence's; even times zero it could be NaN.
    unseen = ~seen.any(2)[..., None]
    key, value = key.masked_fill(unseen, 0), value.masked_fill(unseen, 0)
    if not softcap:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, scale=scale, enable_gqa=grouped
        )
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = torch.tanh(query @ key.transpose(2, 3) * (scale / softcap)) * softcap
    scores = scores.masked_fill(~seen, float("-inf"))
    return torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype) @ value


class PortableKernels:
    """`Kernels` in torch operations."""

    def __init__(self, shape: AttentionShape, blocks: int, cosine: torch.Tensor, sine: torch.Tensor) -> None:
        """cosine, sine: [positions, dim / 2]."""
        self._shape = shape
        self._cache = PagedCache(shape, blocks)
        self._cosine = cosine.float()
        self._sine = sine.float()

    @property
    def cache_bytes(self) -> int:
        return self._cache.bytes

    def begin(self, batch: StepBatch) -> None:
        self._batch = batch
        self._cache.begin(batch)
        self._step_cosine = self._cosine[batch.positions][:, None]
        self._step_sine = self._sine[batch.positions][:, None]

    def add_rms_norm(
        self, residual: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        if delta is not None:
            residual += delta
        return functional.rms_norm(residual, residual.shape[-1:], weight, epsilon).to(self._shape.dtype)

    def attention(
        self,
        layer: int,
        qkv: torch.Tensor,
        q_norm: torch.Tensor | None,
        k_norm: torch.Tensor | None,
        epsilon: float,
    ) -> torch.Tensor:
        shape, rows = self._shape, self._batch.rows
        split = qkv[:rows].view(rows, shape.heads + 2 * shape.kv_heads, shape.dim)
        query, key, value = split.split([shape.heads, shape.kv_heads, shape.kv_heads], 1)
        query, key = self._rotate(query, q_norm, epsilon), self._rotate(key, k_norm, epsilon)
        self._cache.store(layer, key, value)
        out = torch.zeros(self._batch.padded_rows, shape.heads * shape.dim, dtype=shape.dtype, device=shape.device)
        out[:rows] = self._cache.attend(layer, query, shape.scale).flatten(1)
        return out

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, -1)
        return functional.silu(gate) * up

    def _rotate(self, heads: torch.Tensor, norm: torch.Tensor | None, epsilon: float) -> torch.Tensor:
        x = heads.float()
        if norm is not None:
            x = functional.rms_norm(x, x.shape[-1:], norm, epsilon)
        first, second = x.chunk(2, -1)
        cosine, sine = self._step_cosine, self._step_sine
        rotated = torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)
        return rotated.to(self._shape.dtype)
