"""Layers over several devices: how many each gets, and that the answer is the same."""

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.messages import EngineConfig
from engine.runtime.runner import ModelLoadError
from engine.runtime.split import split_layers
from engine.runtime.torch_runner import TorchRunner
from tests.engine.conftest import Harness
from tests.engine.test_greedy_equality import prompts, reference, tokens_of


def _counts(room: list[int], *, layers: int = 32, first: int = 0, last: int = 0) -> list[int]:
    names = [f"cuda:{index}" for index in range(len(room))]
    parts = split_layers(names, room, layers=layers, layer_bytes=100, first_bytes=first, last_bytes=last)
    assert [part.device for part in parts] == names
    assert [part.first for part in parts] == [sum(p.count for p in parts[:index]) for index in range(len(parts))]
    return [part.count for part in parts]


def test_layers_are_shared_out_by_the_free_memory() -> None:
    assert _counts([80, 80]) == [16, 16]
    assert _counts([80, 80, 80]) == [11, 10, 11]
    assert _counts([24, 72]) == [8, 24]
    assert _counts([80], layers=3) == [3]
    assert _counts([0, 0]) == [16, 16]


def test_embedding_and_head_count_as_the_layers_they_weigh() -> None:
    assert _counts([80, 80], first=400) == [14, 18]
    assert _counts([80, 80], last=400) == [18, 14]
    assert _counts([80, 80], first=400, last=400) == [16, 16]


def test_each_device_gets_a_layer_at_least() -> None:
    assert _counts([1, 1000], layers=4) == [1, 3]
    assert _counts([1000, 1, 1], layers=3) == [1, 1, 1]
    assert _counts([10, 10], layers=2, first=10_000) == [1, 1]
    with pytest.raises(ValueError, match="2 layers can't be split over 3 devices"):
        _counts([1, 1, 1], layers=2)


def _runner(folder: Path, *devices: str, **config: object) -> TorchRunner:
    asked = EngineConfig(str(folder), devices=devices, quantization="fp32", **config)  # type: ignore[arg-type]
    return TorchRunner(asked, lambda _share, _stage: None)


@pytest.mark.parametrize("name", ["llama-gqa", "llama-mha-tied", "qwen2-bias", "qwen3-norms"])
@pytest.mark.parametrize("native", ["1", "0"])
def test_a_model_in_parts_equals_generate(
    name: str, native: str, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_GPU_NATIVE_KERNELS", native)
    folder = model_folder(name)
    runner = _runner(folder, "cpu", "cpu", "cpu")
    assert runner.facts.devices == ("cpu", "cpu", "cpu")
    harness = Harness(EngineConfig(str(folder)), runner)
    assert tokens_of(harness, prompts(), stagger=1) == reference(folder, prompts())


def test_parts_hold_as_much_as_the_whole(model_folder: Callable[[str], Path]) -> None:
    folder = model_folder("llama-gqa")
    whole, parts = _runner(folder).facts, _runner(folder, "cpu", "cpu").facts
    assert (parts.weight_bytes, parts.kv_cache_bytes, parts.kv_blocks) == (
        whole.weight_bytes,
        whole.kv_cache_bytes,
        whole.kv_blocks,
    )


def test_what_can_not_be_split_is_refused(model_folder: Callable[[str], Path]) -> None:
    with pytest.raises(ModelLoadError, match="3 layers can't be split over 4 devices"):
        _runner(model_folder("llama-gqa"), "cpu", "cpu", "cpu", "cpu")
    with pytest.raises(ModelLoadError, match="gpt2 models can't be split"):
        _runner(model_folder("gpt2"), "cpu", "cpu")
    with pytest.raises(ModelLoadError, match="this host has no cuda:97") as absent:
        _runner(model_folder("llama-gqa"), "cpu", "cuda:97")
    assert absent.value.code == "BACKEND_UNAVAILABLE"
