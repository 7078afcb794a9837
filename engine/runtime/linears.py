"""Matrix products with a layer's weights: dense, prepacked for the CPU, or quantised to 8 or 4 bits (weights only)."""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch.nn import functional

from engine.memory import GROUP, INT8_ROWS
from engine.runtime.runner import ModelLoadError

_PACK_ROWS = 16  # the batch size that the CPU library lays dense weights out for; good from 1 to 512 rows
_INT4_ROWS = 4  # above this many rows, dense weights are faster than unpacking 4-bit ones for each
_FP16_ROWS = 2  # up to so many, a CPU that does not multiply fp16 is faster than with weights made fp32
_WIDENED = 4 * 1024**2  # weights made fp32 at a time, so that this takes 16 MiB whatever the matrix
_SMALLEST_SCALE = 1e-8
# Weights that came from 4 bits are off their own grid by their rounding to 16 bits; others by a twelfth of its step
# squared, on average.
_ON_THE_GRID = 0.005
_INT4_OUTPUTS = {"cpu": 64, "cuda": 8}  # the kernels' outputs come in multiples of this
_TENSOR_CORES = (8, 0)  # compute capability that torch's 4-bit kernel needs


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


class WidenedLinear:
    """fp16 weights on a CPU that does not multiply them: products of several rows are fp32, in which it is four times
    as fast, and each weight is made wide for the moment that it is needed."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight.contiguous()
        self._bias = bias
        self._step = max(1, _WIDENED // weight.shape[1])
        self.bytes = weight.nbytes

    @staticmethod
    def needed(weight: torch.Tensor) -> bool:
        if weight.device.type != "cpu" or weight.dtype != torch.float16:
            return False
        return not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_fp16_supported())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] <= _FP16_ROWS:
            return functional.linear(x, self._weight, self._bias)
        wide = x.float()
        parts = [functional.linear(wide, part.float()).to(x.dtype) for part in self._weight.split(self._step)]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return y if self._bias is None else y + self._bias


class Int8Linear:
    """8-bit weights with a scale for each output channel, symmetric: w = q * scale.

    On the CPU a fused kernel multiplies few rows; for many it is cheaper to make the weights dense first. Elsewhere
    that is always done: torch's own 8-bit kernel for CUDA computes in float32 without tensor cores.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        exact = weight.float()
        low, high = exact.aminmax(dim=1)
        scale = (torch.maximum(-low, high) / 127).clamp_min(1e-8)
        self._weight = (exact / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        self._scale = scale.to(weight.dtype)
        self._bias = bias
        # The CPU kernel is fast with bfloat16 activations only; with float32 it is slower than no quantisation.
        self._fused_rows = INT8_ROWS if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 else 0
        self.bytes = self._weight.nbytes + self._scale.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] <= self._fused_rows:
            y = torch.ops.aten._weight_int8pack_mm(x, self._weight, self._scale)
        else:
            y = functional.linear(x, self._weight.to(x.dtype)) * self._scale
        return y if self._bias is None else y + self._bias


class Int4Linear:
    """4-bit weights in groups of 32 inputs with a scale and a minimum each: w = q * scale + minimum, 0 <= q <= 15.

    This holds the weights of a Q4_1 GGUF without loss. Torch's kernels unpack as they multiply bfloat16 activations: on
    the CPU that is fastest for few rows; with `twin`, more rows use dense weights of the same values, kept beside them.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, twin: bool = False) -> None:
        """`weight` is bfloat16, on a device and with a number of inputs that `refuse_precision` lets through."""
        self._outputs = weight.shape[0]
        self._bias = bias
        self._cuda = weight.device.type == "cuda"
        quantised, scale, minimum = quantise_int4(weight)
        self._twin: Linear | None = None
        if twin and PackedLinear.available(weight.dtype):
            self._twin = PackedLinear(dequantise_int4(quantised, scale, minimum).to(weight.dtype), bias)
        missing = -self._outputs % _INT4_OUTPUTS[weight.device.type]
        if missing:
            quantised, scale, minimum = (functional.pad(x, (0, 0, 0, missing)) for x in (quantised, scale, minimum))
        zero = minimum + 8 * scale  # the kernels take w = (q - 8) * scale + zero
        self._scales = torch.stack([scale, zero], -1).transpose(0, 1).contiguous().to(weight.dtype)
        if self._cuda:
            pairs = (quantised[:, 0::2] << 4 | quantised[:, 1::2]).contiguous()
            self._weight = torch.ops.aten._convert_weight_to_int4pack(pairs, _inner_tiles(weight.shape[1]))
        else:
            self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(quantised.int(), 2)
        self.bytes = self._weight.nbytes + self._scales.nbytes + (self._twin.bytes if self._twin else 0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._twin is not None and x.shape[0] > _INT4_ROWS:
            return self._twin(x)
        if self._cuda:
            y = torch.ops.aten._weight_int4pack_mm(x.contiguous(), self._weight, GROUP, self._scales)
        else:
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self._weight, GROUP, self._scales)
        if y.shape[1] > self._outputs:
            y = y[:, : self._outputs].contiguous()
        return y if self._bias is None else y + self._bias


def quantise_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[out, in] to q (uint8, [out, in], 0 to 15), scale and minimum (float32, [out, in / GROUP]).

    Each group takes the nearer of two grids: from its least to its greatest weight, as in a Q4_1 GGUF; or, as in Q4_0,
    of multiples of an eighth of the one that is furthest from zero.
    """
    groups = weight.float().unflatten(1, (-1, GROUP))
    minimum, maximum = groups.aminmax(dim=-1)
    scale = ((maximum - minimum) / 15).clamp_min(_SMALLEST_SCALE)
    quantised, error = _on_grid(groups, scale, minimum)
    if float(error.mean()) <= _ON_THE_GRID * float(scale.square().mean()):
        return quantised.flatten(1), scale, minimum
    furthest = torch.where(maximum > -minimum, maximum, minimum)
    eighth = furthest / -8
    eighth = torch.where(eighth.abs() < _SMALLEST_SCALE, _SMALLEST_SCALE, eighth)
    around_zero, its_error = _on_grid(groups, eighth, furthest)
    nearer = its_error < error
    quantised = torch.where(nearer[..., None], around_zero, quantised)
    return quantised.flatten(1), torch.where(nearer, eighth, scale), torch.where(nearer, furthest, minimum)


def _on_grid(groups: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest points (uint8) of w = q * scale + minimum, and each group's mean square distance from them."""
    exact = (groups - minimum[..., None]).div_(scale[..., None])
    nearest = exact.round().clamp_(0, 15)
    return nearest.to(torch.uint8), exact.sub_(nearest).square_().mean(-1).mul_(scale.square())


def dequantise_int4(quantised: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor) -> torch.Tensor:
    """The inverse of `quantise_int4`, in the scale's dtype."""
    groups = quantised.unflatten(1, (-1, GROUP)).to(scale.dtype)
    return (groups * scale[..., None] + minimum[..., None]).flatten(1)


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None, precision: str, *, twin: bool = False) -> Linear:
    """`weight`: [out_features, in_features] in the activations' dtype. `precision`: int4, int8, or anything else."""
    if precision == "int4":
        return Int4Linear(weight, bias, twin=twin)
    if precision == "int8":
        return Int8Linear(weight, bias)
    if weight.device.type == "cpu" and PackedLinear.available(weight.dtype):
        return PackedLinear(weight, bias)
    if WidenedLinear.needed(weight):
        return WidenedLinear(weight, bias)
    return DenseLinear(weight, bias)


def refuse_precision(precision: str, device: torch.device, inputs: Iterable[int]) -> None:
    """Raises ModelLoadError, which names what to use instead, for a precision that the device can't run with matrices
    of so many inputs."""
    if precision == "int4":
        if device.type not in _INT4_OUTPUTS:
            raise ModelLoadError("MODEL_LOAD_FAILED", f"int4 does not run on {device.type}; use int8 or fp16")
        for count in inputs:
            if count % GROUP:
                raise ModelLoadError(
                    "MODEL_LOAD_FAILED",
                    f"int4 needs matrices with a multiple of {GROUP} inputs, and one has {count}; use int8",
                )
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if precision == "int4" and capability < _TENSOR_CORES:
            raise ModelLoadError(
                "MODEL_LOAD_FAILED",
                f"int4 needs a GPU of compute capability 8.0, and {device} has {capability[0]}.{capability[1]}; "
                "use int8 or fp16",
            )
        if precision == "bf16" and not torch.cuda.is_bf16_supported():
            raise ModelLoadError("MODEL_LOAD_FAILED", f"{device} does not multiply bf16; use fp16 or fp32")


def _inner_tiles(inputs: int) -> int:
    """How many tiles of 16 inputs CUDA's layout puts side by side: the most that divide a row."""
    return next(tiles for tiles in (8, 4, 2) if inputs % (16 * tiles) == 0)
