"""Quantised and prepacked weights against plain matrix products."""

import pytest
import torch
from torch.nn import functional

from engine.runtime.linears import (
    GROUP,
    DenseLinear,
    Int4Linear,
    Int8Linear,
    PackedLinear,
    WidenedLinear,
    dequantise_int4,
    make_linear,
    quantise_int4,
    refuse_precision,
)
from engine.runtime.runner import ModelLoadError

ROWS = (1, 3, 5, 16, 40, 100)


def _weight(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(128, 96, generator=torch.Generator().manual_seed(1)).to(dtype)


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("biased", [False, True])
def test_packed_weights_change_nothing(rows: int, biased: bool) -> None:
    weight, x = _weight(), torch.randn(rows, 96)
    bias = torch.randn(128) if biased else None
    expected = functional.linear(x, weight, bias)
    assert _error(PackedLinear(weight, bias)(x), expected) < 1e-6
    assert _error(DenseLinear(weight, bias)(x), expected) == 0


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("biased", [False, True])
def test_fp16_weights_that_are_widened_a_piece_at_a_time_lose_no_more_than_rounding(
    rows: int, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runtime.linears._WIDENED", 50 * 96)  # two whole pieces and a part of one
    weight, x = _weight(torch.float16), torch.randn(rows, 96).half()
    bias = torch.randn(128).half() if biased else None
    expected = functional.linear(x.float(), weight.float(), None if bias is None else bias.float())
    found = WidenedLinear(weight, bias)(x)
    assert (found.dtype, found.shape) == (torch.float16, expected.shape)
    assert _error(found, expected) < 1e-3


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_8_bit_weights_are_within_a_percent(rows: int, dtype: torch.dtype) -> None:
    weight, x, bias = _weight(dtype), torch.randn(rows, 96).to(dtype), torch.randn(128).to(dtype)
    expected = functional.linear(x.float(), weight.float(), bias.float())
    assert _error(Int8Linear(weight, bias)(x), expected) < 0.012


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("twin", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_4_bit_weights_are_near_and_every_way_to_multiply_agrees(rows: int, twin: bool, dtype: torch.dtype) -> None:
    weight, x, bias = _weight(dtype), torch.randn(rows, 96).to(dtype), torch.randn(128).to(dtype)
    held = dequantise_int4(*quantise_int4(weight))
    found = Int4Linear(weight, bias, twin=twin)(x)
    assert _error(found, functional.linear(x.float(), held, bias.float())) < 0.01
    assert _error(found, functional.linear(x.float(), weight.float(), bias.float())) < 0.1


@pytest.mark.parametrize("outputs", [1, 63, 65, 130])
def test_4_bit_weights_may_have_any_number_of_outputs(outputs: int) -> None:
    weight, x, bias = (
        torch.randn(outputs, 96).bfloat16(),
        torch.randn(3, 96).bfloat16(),
        torch.randn(outputs).bfloat16(),
    )
    held = dequantise_int4(*quantise_int4(weight))
    found = Int4Linear(weight, bias)(x)
    assert found.is_contiguous()
    assert _error(found, functional.linear(x.float(), held, bias.float())) < 0.01


def test_weights_that_were_4_bit_in_groups_of_32_are_held_without_loss() -> None:
    generator = torch.Generator().manual_seed(2)
    quantised = torch.randint(0, 16, (64, 96), generator=generator).float()
    quantised[:, ::GROUP], quantised[:, 1::GROUP] = 0, 15  # a group that spans its range, as quantisers leave it
    scale, minimum = torch.rand(64, 3, generator=generator) + 0.1, torch.randn(64, 3, generator=generator)
    weight = (quantised.unflatten(1, (3, GROUP)) * scale[..., None] + minimum[..., None]).flatten(1)
    assert _error(dequantise_int4(*quantise_int4(weight)), weight) < 1e-6


@pytest.mark.parametrize("reach", [7, 5])
def test_weights_that_were_4_bit_around_zero_are_held_without_loss(reach: int) -> None:
    """As Q4_0 has them: multiples of a step, of which the furthest from zero is the eighth, of either sign."""
    generator = torch.Generator().manual_seed(3)
    multiples = torch.randint(-7, reach + 1, (64, 96), generator=generator).float()
    multiples[:, ::GROUP] = -8
    step = torch.rand(64, 3, generator=generator) + 0.1
    step[::2] *= -1
    weight = (multiples.unflatten(1, (3, GROUP)) * step[..., None]).flatten(1)
    assert _error(dequantise_int4(*quantise_int4(weight)), weight) < 1e-6
    x = torch.randn(3, 96).bfloat16()
    assert _error(Int4Linear(weight.bfloat16(), None)(x), functional.linear(x.float(), weight)) < 0.01


def test_4_bit_weights_take_a_sixth_of_float32() -> None:
    weight = torch.randn(256, 256)
    assert make_linear(weight, None, "int4").bytes < weight.nbytes / 5
    assert make_linear(weight, None, "int8").bytes < weight.nbytes / 3.9


def test_what_int4_can_not_hold_is_refused_and_names_what_can() -> None:
    refuse_precision("int8", torch.device("cpu"), [40])
    refuse_precision("int4", torch.device("cpu"), [64])
    with pytest.raises(ModelLoadError, match="one has 40; use int8"):
        refuse_precision("int4", torch.device("cpu"), [64, 40])
    with pytest.raises(ModelLoadError, match="does not run on mps; use int8 or fp16"):
        refuse_precision("int4", torch.device("mps"), [64])
