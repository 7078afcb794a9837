"""The fast path: LLaMA-shaped decoders with fused weights, over `kernels`.

Llama 1-3, Mistral, Qwen 2 and 3, SmolLM 1 and 2: stacks of pre-norm blocks with RoPE, grouped-query attention and
SwiGLU. The weights come out of the transformers module, which is emptied as it goes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from engine.runtime.kernels.batch import StepBatch
from engine.runtime.kernels.interface import Kernels
from engine.runtime.linears import Linear, make_linear

_MODEL_TYPES = {"llama", "mistral", "qwen2", "qwen3"}
_ROPE_TYPES = {"default", "linear", "llama3", "yarn"}  # those whose frequencies don't depend on the prompt's length


def is_llama_shaped(config: Any, context_length: int) -> bool:
    """Whether the fast path computes what the model's own module would."""
    rope = getattr(config, "rope_parameters", None) or {}
    window: int = getattr(config, "sliding_window", None) or context_length
    windowed = window < context_length and getattr(config, "use_sliding_window", True)
    return (
        config.model_type in _MODEL_TYPES
        and config.hidden_act == "silu"
        and rope.get("rope_type", "default") in _ROPE_TYPES
        and not windowed
    )


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


class LlamaModel:
    """Hidden size D, vocabulary V. Norm weights are float32, everything else in `dtype`."""

    def __init__(
        self,
        module: Any,
        *,
        dtype: torch.dtype,
        device: torch.device,
        quantization: str,
        twin: bool,
        progress: Callable[[float], None],
    ) -> None:
        """Take the weights out of a LlamaForCausalLM-like module, layer by layer, so that both never lie in memory."""
        config = module.config
        self.epsilon = float(config.rms_norm_eps)

        def linear(*parts: Any) -> Linear:
            weight = torch.cat([part.weight.detach() for part in parts]).to(device, dtype)
            biases = [part.bias.detach() for part in parts if part.bias is not None]
            bias = torch.cat(biases).to(device, dtype) if biases else None
            for part in parts:
                part.weight = part.bias = None
            return make_linear(weight, bias, quantization, twin=twin)

        def norm(part: Any) -> torch.Tensor:
            return part.weight.detach().to(device, torch.float32)

        embedding = module.model.embed_tokens.weight.detach().to(device, dtype)
        self.embedding = embedding
        self.layers: list[_Layer] = []
        blocks: nn.ModuleList = module.model.layers
        for index, block in enumerate(blocks):
            attention: Any = block.self_attn
            mlp: Any = block.mlp
            self.layers.append(
                _Layer(
                    input_norm=norm(block.input_layernorm),
                    qkv=linear(attention.q_proj, attention.k_proj, attention.v_proj),
                    q_norm=norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
                    k_norm=norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
                    output=linear(attention.o_proj),
                    post_norm=norm(block.post_attention_layernorm),
                    gate_up=linear(mlp.gate_proj, mlp.up_proj),
                    down=linear(mlp.down_proj),
                )
            )
            progress((index + 1) / len(blocks))
        self.final_norm = norm(module.model.norm)
        # The head stays at 8 bits at least: it costs the most quality at 4 (and GGUF files keep it so, too).
        head = module.lm_head.weight.detach().to(device, dtype)
        self.head = make_linear(head, None, "int8" if quantization in ("int4", "int8") and not twin else "none")

    @property
    def bytes(self) -> int:
        linears = [part for layer in self.layers for part in (layer.qkv, layer.output, layer.gate_up, layer.down)]
        return self.embedding.nbytes + self.head.bytes + sum(part.bytes for part in linears)

    def forward(self, batch: StepBatch, kernels: Kernels) -> torch.Tensor:
        """Run one step; returns the logits of the rows to sample from, [samples, V]."""
        kernels.begin(batch)
        residual = functional.embedding(batch.tokens, self.embedding).float()
        delta: torch.Tensor | None = None
        epsilon = self.epsilon
        for index, layer in enumerate(self.layers):
            hidden = kernels.add_rms_norm(residual, delta, layer.input_norm, epsilon)
            attended = kernels.attention(index, layer.qkv(hidden), layer.q_norm, layer.k_norm, epsilon)
            hidden = kernels.add_rms_norm(residual, layer.output(attended), layer.post_norm, epsilon)
            delta = layer.down(kernels.silu_mul(layer.gate_up(hidden)))
        if not len(batch.samples):
            return torch.empty(0)
        if delta is not None:
            delta = delta[batch.samples]
        last = kernels.add_rms_norm(residual[batch.samples], delta, self.final_norm, epsilon)
        return self.head(last)


def rotary_tables(module: Any, positions: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of RoPE with the model's own scaling, float32 [positions, dim / 2]."""
    rotary = module.model.rotary_emb
    angles = torch.outer(torch.arange(positions).float(), rotary.inv_freq.detach().cpu().float())
    scaling = float(getattr(rotary, "attention_scaling", 1.0))
    return (angles.cos() * scaling).to(device), (angles.sin() * scaling).to(device)
