"""The fast path: LLaMA-shaped decoders with fused weights, over `kernels`.

Llama 1-3, Mistral, Qwen 2 and 3, SmolLM 1 and 2: stacks of pre-norm blocks with RoPE, grouped-query attention and
SwiGLU. The weights come straight from the files, a layer at a time, so that no second copy of the model is needed. The
layers may be split over several devices: each part has its own kernels with the KV cache of its layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional

from engine.memory import FAST_MODEL_TYPES
from engine.runtime.kernels.batch import StepBatch, StepResult
from engine.runtime.kernels.interface import Kernels
from engine.runtime.linears import DenseLinear, Linear, make_linear
from engine.runtime.split import Part

_ROPE_TYPES = {"default", "linear", "llama3", "yarn"}  # those whose frequencies don't depend on the prompt's length


def is_llama_shaped(config: Any, context_length: int) -> bool:
    """Whether the fast path computes what the model's own module would."""
    rope = getattr(config, "rope_parameters", None) or {}
    window: int = getattr(config, "sliding_window", None) or context_length
    windowed = window < context_length and getattr(config, "use_sliding_window", True)
    return (
        config.model_type in FAST_MODEL_TYPES
        and config.hidden_act == "silu"
        and rope.get("rope_type", "default") in _ROPE_TYPES
        and not windowed
    )


class Weights(Protocol):
    """A checkpoint's tensors by their names in transformers."""

    def __contains__(self, name: str) -> bool: ...

    def read(self, name: str) -> torch.Tensor: ...


@dataclass(frozen=True)
class _Layer:
    input_norm: torch.Tensor
    qkv: Linear
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    output: Linear
    post_norm: torch.Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True)
class _Stage:
    """The layers of one device."""

    device: torch.device
    layers: list[_Layer]


class LlamaModel:
    """Hidden size D, vocabulary V. Norm weights are float32, everything else in `dtype`."""

    def __init__(
        self,
        weights: Weights,
        parts: Sequence[Part],
        *,
        epsilon: float,
        tied: bool,
        dtype: torch.dtype,
        precision: str,
        twin: bool,
        progress: Callable[[float], None],
    ) -> None:
        """`twin`: keep dense weights beside 4-bit ones. Raises ModelLoadError."""
        self.epsilon = epsilon
        layers = parts[-1].first + parts[-1].count

        def tensor(name: str, device: torch.device) -> torch.Tensor:
            return weights.read(name).to(device, dtype, copy=True)

        def linear(device: torch.device, prefix: str, *names: str) -> Linear:
            # On its own device each part is a copy already, so that nothing of the file stays mapped.
            weight = torch.cat([weights.read(f"{prefix}.{name}.weight").to(device, dtype) for name in names])
            biases = [f"{prefix}.{name}.bias" for name in names if f"{prefix}.{name}.bias" in weights]
            bias = torch.cat([tensor(name, device) for name in biases]) if biases else None
            return make_linear(weight, bias, precision, twin=twin)

        def norm(name: str, device: torch.device) -> torch.Tensor:
            return weights.read(name).to(device, torch.float32, copy=True)

        def head_norm(name: str, device: torch.device) -> torch.Tensor | None:
            return norm(name, device) if name in weights else None

        def layer(index: int, device: torch.device) -> _Layer:
            prefix = f"model.layers.{index}"
            attention = f"{prefix}.self_attn"
            read = _Layer(
                input_norm=norm(f"{prefix}.input_layernorm.weight", device),
                qkv=linear(device, attention, "q_proj", "k_proj", "v_proj"),
                q_norm=head_norm(f"{attention}.q_norm.weight", device),
                k_norm=head_norm(f"{attention}.k_norm.weight", device),
                output=linear(device, attention, "o_proj"),
                post_norm=norm(f"{prefix}.post_attention_layernorm.weight", device),
                gate_up=linear(device, f"{prefix}.mlp", "gate_proj", "up_proj"),
                down=linear(device, f"{prefix}.mlp", "down_proj"),
            )
            progress((index + 1) / layers)
            return read

        devices = [torch.device(part.device) for part in parts]
        self.embedding = tensor("model.embed_tokens.weight", devices[0])
        self.stages = [
            _Stage(device, [layer(index, device) for index in range(part.first, part.first + part.count)])
            for device, part in zip(devices, parts, strict=True)
        ]
        last = devices[-1]
        self.final_norm = norm("model.norm.weight", last)
        # The head stays at 8 bits at least: it costs the most quality at 4 (and GGUF files keep it so, too).
        head_precision = "int8" if precision in ("int8", "int4") and not twin else ""
        head = self.embedding.to(last) if tied else tensor("lm_head.weight", last)
        self.head = make_linear(head, None, head_precision)
        self._head_is_embedding = isinstance(self.head, DenseLinear) and head is self.embedding

    @property
    def bytes(self) -> int:
        layers = [layer for stage in self.stages for layer in stage.layers]
        linears = [part for layer in layers for part in (layer.qkv, layer.output, layer.gate_up, layer.down)]
        head = 0 if self._head_is_embedding else self.head.bytes
        return self.embedding.nbytes + head + sum(part.bytes for part in linears)

    def forward(self, batch: StepBatch, kernels: Sequence[Kernels]) -> StepResult:
        """Run one step, each stage with its kernels."""
        residual = functional.embedding(batch.tokens, self.embedding).float()
        delta: torch.Tensor | None = None
        epsilon = self.epsilon
        for stage, kernel in zip(self.stages, kernels, strict=True):
            if batch.tokens.device != stage.device:
                batch = batch.to(stage.device)
                residual = residual.to(stage.device)
                delta = None if delta is None else delta.to(stage.device)
            kernel.begin(batch)
            for index, layer in enumerate(stage.layers):
                hidden = kernel.add_rms_norm(residual, delta, layer.input_norm, epsilon)
                attended = kernel.attention(index, layer.qkv(hidden), layer.q_norm, layer.k_norm, epsilon)
                hidden = kernel.add_rms_norm(residual, layer.output(attended), layer.post_norm, epsilon)
                delta = layer.down(kernel.silu_mul(layer.gate_up(hidden)))

        def last(rows: torch.Tensor) -> torch.Tensor:
            own = None if delta is None else delta[rows]
            return kernels[-1].add_rms_norm(residual[rows], own, self.final_norm, epsilon)

        return StepResult(
            logits=self.head(last(batch.samples)) if len(batch.samples) else torch.empty(0),
            hidden=last(batch.pooled) if len(batch.pooled) else torch.empty(0),
        )


def rotary_tables(rotary: Any, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of RoPE by a transformers rotary embedding, with its scaling; float32 [positions, dim / 2]."""
    angles = torch.outer(torch.arange(positions).float(), rotary.inv_freq.detach().cpu().float())
    scaling = float(getattr(rotary, "attention_scaling", 1.0))
    return angles.cos() * scaling, angles.sin() * scaling
