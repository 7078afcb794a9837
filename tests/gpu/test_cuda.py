"""The engine on a CUDA device; skipped, with the reason shown, where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.messages import EngineConfig
from engine.runtime.torch_runner import TorchRunner
from tests.engine.conftest import MODEL_NAMES, Harness
from tests.engine.test_greedy_equality import prompts, reference, tokens_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this host has no CUDA device"),
]


def _runner(folder: Path, quantization: str) -> TorchRunner:
    config = EngineConfig(str(folder), device="cuda:0", quantization=quantization, kv_cache_bytes=256 * 1024 * 1024)
    return TorchRunner(config, lambda _share, _stage: None)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_greedy_output_equals_generate(name: str, model_folder: Callable[[str], Path]) -> None:
    folder = model_folder(name)
    harness = Harness(EngineConfig(str(folder)), _runner(folder, "fp32"))
    assert tokens_of(harness, prompts(), stagger=1) == reference(folder, prompts())


@pytest.mark.parametrize("quantization", ["bf16", "fp16", "int8", "int4"])
def test_lower_precisions_stay_near_full_precision(quantization: str, model_folder: Callable[[str], Path]) -> None:
    folder = model_folder("llama-gqa")
    harness = Harness(EngineConfig(str(folder)), _runner(folder, quantization))
    name = harness.submit([5, 6, 7, 8, 9], max_tokens=8, ignore_eos=True)
    harness.run()
    assert harness.finished(name).completion_tokens == 8


def test_memory_is_measured_on_the_device(model_folder: Callable[[str], Path]) -> None:
    facts = _runner(model_folder("llama-gqa"), "bf16").facts
    assert facts.backend == "cuda"
    assert facts.memory_bytes > facts.parameters
