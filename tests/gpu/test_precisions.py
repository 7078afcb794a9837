"""Precisions, memory and parts on CUDA devices; skipped, with the reason shown, where there are none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from benchmarks.quality import Quality, measured
from engine.client import EngineClient
from engine.memory import GROUP
from engine.messages import EngineConfig
from engine.runtime.linears import Int4Linear, Int8Linear, dequantise_int4, quantise_int4
from engine.runtime.torch_runner import TorchRunner
from models_mgmt.inspection import inspect
from models_mgmt.memory import estimate
from tests.engine.conftest import Harness
from tests.engine.test_greedy_equality import prompts, reference, tokens_of
from tests.engine.test_quality import BOUNDS
from tests.random_models import random_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this host has no CUDA device"),
]


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize("rows", [1, 16, 100])
@pytest.mark.parametrize("inputs", [GROUP, 3 * GROUP, 64, 128, 576])
@pytest.mark.parametrize("outputs", [8, 60, 960])
def test_4_bit_products_are_those_of_the_weights_they_hold(rows: int, inputs: int, outputs: int) -> None:
    weight = torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
    held = dequantise_int4(*quantise_int4(weight))
    assert _error(Int4Linear(weight, None)(x), functional.linear(x.float(), held)) < 0.01


def test_8_bit_products_are_within_a_percent() -> None:
    weight = torch.randn(960, 576, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(16, 576, device="cuda", dtype=torch.bfloat16)
    assert _error(Int8Linear(weight, None)(x), functional.linear(x.float(), weight.float())) < 0.012


@pytest.fixture(scope="module")
def found(demo_model: Path) -> dict[str, Quality]:
    return dict(measured(demo_model, "cuda:0"))


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_lower_precision_stays_near(found: dict[str, Quality], precision: str) -> None:
    least, growth = BOUNDS[precision]
    assert found[precision].agreement >= least
    assert found[precision].perplexity <= (1 + growth) * found["fp32"].perplexity


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this host has no second CUDA device")
def test_a_model_over_two_devices_equals_generate(model_folder: Callable[[str], Path]) -> None:
    folder = model_folder("llama-gqa")
    config = EngineConfig(str(folder), devices=("cuda:0", "cuda:1"), quantization="fp32")
    harness = Harness(config, TorchRunner(config, lambda _share, _stage: None))
    assert tokens_of(harness, prompts()) == reference(folder, prompts())


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
@pytest.mark.parametrize(("layers", "hidden"), [(24, 2048), (8, 4096)])
def test_a_model_takes_what_was_estimated_and_gives_it_back(
    precision: str, layers: int, hidden: int, tmp_path: Path
) -> None:
    folder = random_model(
        tmp_path / "model",
        vocab_size=32_000,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 128,
        num_key_value_heads=8,
        max_position_embeddings=4096,
    )
    before = torch.cuda.mem_get_info(0)[0]
    client = EngineClient(
        EngineConfig(str(folder), device="cuda:0", quantization=precision),
        on_step=lambda _: None,
        on_exit=lambda _: None,
    )
    try:
        ready = client.start()
    finally:
        client.stop()
    expected = estimate(
        inspect(folder), quantization=precision, device_kind="cuda", context_length=None, max_sequences=32
    )
    assert expected.total == pytest.approx(ready.memory_bytes, rel=0.1)
    assert torch.cuda.mem_get_info(0)[0] == pytest.approx(before, abs=64 * 1024**2)
