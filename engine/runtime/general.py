"""The general path: any causal LM of transformers, its own module run over the engine's paged cache.

The module's attention calls go to `PagedCache` through transformers' attention interface; position, packing and cache
are the engine's. Slower than the fast path, but right for architectures it doesn't know.
"""

from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from engine.runtime.kernels.batch import StepBatch, StepResult
from engine.runtime.kernels.interface import AttentionShape
from engine.runtime.kernels.portable import PagedCache
from engine.runtime.runner import ModelLoadError

_NAME = "engine_paged"
_LAYER_TYPES = {"full_attention", "sliding_attention"}
# What modules pass to attention beside what `_paged_attention` names, and what changes nothing here.
_HARMLESS = {
    "dropout",
    "is_causal",
    "position_ids",
    "use_cache",
    "cache_position",
    "output_attentions",
    "output_hidden_states",
    "logits_to_keep",
}


def _paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # the interface's; the cache knows what is seen
    scaling: float | None = None,
    *,
    paged_cache: PagedCache,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """query: [1, heads, rows, dim]; key and value with kv_heads. Returns [1, rows, heads, dim].

    Raises ModelLoadError for an argument that would change the result and is not known here.
    """
    unknown = sorted(name for name, value in others.items() if name not in _HARMLESS and value is not None)
    if unknown:
        raise ModelLoadError("MODEL_LOAD_FAILED", f"this attention is not supported: it takes {', '.join(unknown)}")
    rows = len(paged_cache.slots)
    layer = module.layer_idx
    paged_cache.store(layer, key[0, :, :rows].transpose(0, 1), value[0, :, :rows].transpose(0, 1))
    found = paged_cache.attend(
        layer,
        query[0, :, :rows].transpose(0, 1).contiguous(),
        scaling if scaling is not None else query.shape[-1] ** -0.5,
        window=sliding_window or 0,
        softcap=softcap or 0.0,
    )
    out = torch.zeros(query.shape[2], *found.shape[1:], dtype=found.dtype, device=found.device)
    out[:rows] = found
    return out[None], None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


class GeneralModel:
    """A transformers module behind the same `forward` as the fast path's model."""

    def __init__(self, module: PreTrainedModel, shape: AttentionShape, blocks: int) -> None:
        """Raises ModelLoadError for a module whose attention can't be replaced."""
        AttentionInterface.register(_NAME, _paged_attention)
        AttentionMaskInterface.register(_NAME, _no_mask)
        name = type(module).__name__
        other_layers = set(getattr(module.config.get_text_config(), "layer_types", None) or ()) - _LAYER_TYPES
        if getattr(module, "_is_stateful", False) or other_layers:
            raise ModelLoadError("MODEL_LOAD_FAILED", f"{name} is not supported: it has layers that are no attention")
        try:
            module.set_attn_implementation(_NAME)
        except (ValueError, ImportError) as error:
            raise ModelLoadError("MODEL_LOAD_FAILED", f"{name} is not supported: {error}") from error
        # For an architecture whose attention can't be replaced, transformers only warns.
        if module.config._attn_implementation != _NAME or not module._can_set_attn_implementation():
            raise ModelLoadError("MODEL_LOAD_FAILED", f"{name} is not supported: its attention can't be replaced")
        self._module = module
        self._cache = PagedCache(shape, blocks)
        self.bytes = sum(parameter.nbytes for parameter in module.parameters())
        self.cache_bytes = self._cache.bytes

    def forward(self, batch: StepBatch) -> StepResult:
        """Run one step."""
        self._cache.begin(batch)
        positions = torch.zeros_like(batch.tokens)
        positions[: batch.rows] = batch.positions
        result = self._module(
            input_ids=batch.tokens[None],
            position_ids=positions[None],
            use_cache=False,
            paged_cache=self._cache,
            logits_to_keep=batch.samples if len(batch.samples) else 1,
            output_hidden_states=len(batch.pooled) > 0,
        )
        return StepResult(
            logits=result.logits[0] if len(batch.samples) else torch.empty(0),
            hidden=result.hidden_states[-1][0][batch.pooled] if len(batch.pooled) else torch.empty(0),
        )
