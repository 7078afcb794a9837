"""Matrix products with a layer's weights: dense, prepacked for the CPU, or quantised to 8 or 4 bits (weights only)."""

from typing import Protocol

import torch
from torch.nn import functional

GROUP = 32
_PACK_ROWS = 16  # the batch size that the CPU library lays dense weights out for; good from 1 to 512 rows
_INT4_ROWS = 4  # above this many rows, dense weights are faster than unpacking 4-bit ones for each


class Linear(Protocol):
    """y = x W^T + b, for x [rows, in_features]; rows are never zero."""

    bytes: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class DenseLinear:
    """Weights as they are: any device."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight.contiguous()
        self._bias = bias
        self.bytes = weight.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self._weight, self._bias)


class PackedLinear:
    """Weights laid out once in oneDNN's blocked format: about twice as fast on the CPU as doing so at each call."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACK_ROWS)
        self._bias = bias
        self.bytes = weight.nbytes

    @staticmethod
    def available(dtype: torch.dtype) -> bool:
        if not torch.backends.mkldnn.is_available():
            return False
        if dtype == torch.bfloat16:
            return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        return dtype == torch.float32

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return result


class Int8Linear:
    """8-bit weights with a scale for each output channel, symmetric: w = q * scale."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        scale = (weight.float().abs().amax(1) / 127).clamp_min(1e-8)
        self._weight = torch.round(weight.float() / scale[:, None]).clamp(-127, 127).to(torch.int8).contiguous()
        self._scale = scale.to(weight.dtype)
        self._bias = bias
        # The CPU kernel is fast with bfloat16 activations only; with float32 it is slower than no quantisation.
        self._fused = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
        self.bytes = self._weight.nbytes + self._scale.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._fused:
            y = torch.ops.aten._weight_int8pack_mm(x, self._weight, self._scale)
        else:
            y = functional.linear(x, self._weight.to(x.dtype)) * self._scale
        return y if self._bias is None else y + self._bias


class Int4Linear:
    """4-bit weights in groups of 32 inputs with a scale and a minimum each: w = q * scale + minimum, 0 <= q <= 15.

    This holds the weights of a Q4_1 GGUF without loss. On the CPU with bfloat16 activations a fused kernel
    unpacks as it multiplies, which is fastest for few rows; with `twin`, more rows use dense weights of the
    same values, kept beside them.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, twin: bool) -> None:
        quantised, scale, minimum = quantise_int4(weight)
        self._bias = bias
        self._fused = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and weight.shape[0] % 64 == 0
        self._twin: Linear | None = None
        if self._fused:
            self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(quantised.int(), 2)
            zero = minimum + 8 * scale  # the kernel takes w = (q - 8) * scale + zero
            self._scales = torch.stack([scale, zero], -1).transpose(0, 1).contiguous().to(weight.dtype)
            if twin:
                dense = dequantise_int4(quantised, scale, minimum).to(weight.dtype)
                self._twin = PackedLinear(dense, bias) if PackedLinear.available(weight.dtype) else None
        else:
            self._weight = (quantised[:, 0::2] | quantised[:, 1::2] << 4).contiguous()
            self._scales = torch.stack([scale, minimum]).to(weight.dtype)
        self.bytes = self._weight.nbytes + self._scales.nbytes + (self._twin.bytes if self._twin else 0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._twin is not None and x.shape[0] > _INT4_ROWS:
            return self._twin(x)
        if self._fused:
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self._weight, GROUP, self._scales)
        else:
            low, high = self._weight & 15, self._weight >> 4
            quantised = torch.stack([low, high], -1).flatten(1)
            y = functional.linear(x, dequantise_int4(quantised, *self._scales).to(x.dtype))
        return y if self._bias is None else y + self._bias


def quantise_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[out, in] to q (uint8, [out, in], 0 to 15), scale and minimum (float32, [out, in / GROUP])."""
    groups = weight.float().unflatten(1, (-1, GROUP))
    minimum, maximum = groups.amin(-1), groups.amax(-1)
    scale = ((maximum - minimum) / 15).clamp_min(1e-8)
    quantised = torch.round((groups - minimum[..., None]) / scale[..., None]).clamp(0, 15)
    return quantised.to(torch.uint8).flatten(1), scale, minimum


def dequantise_int4(quantised: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor) -> torch.Tensor:
    """The inverse of `quantise_int4`, in the scale's dtype."""
    groups = quantised.unflatten(1, (-1, GROUP)).to(scale.dtype)
    return (groups * scale[..., None] + minimum[..., None]).flatten(1)


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None, quantization: str, *, twin: bool = False) -> Linear:
    """`weight`: [out_features, in_features] in the activations' dtype. `quantization`: int4, int8, or anything else."""
    if quantization == "int4" and weight.shape[1] % GROUP == 0:
        return Int4Linear(weight, bias, twin=twin)
    if quantization in ("int4", "int8"):
        return Int8Linear(weight, bias)
    if weight.device.type == "cpu" and PackedLinear.available(weight.dtype):
        return PackedLinear(weight, bias)
    return DenseLinear(weight, bias)
