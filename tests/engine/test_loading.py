"""What a load tells on its way, and the sentence with which each broken model is refused."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.client import EngineClient, EngineStartError
from engine.messages import EngineConfig, Loading
from engine.runtime.runner import ModelLoadError
from engine.runtime.torch_runner import TorchRunner
from tests.engine.conftest import Harness
from tests.engine.test_greedy_equality import prompts, tokens_of
from tests.random_models import random_model

_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class TownConfig(LlamaConfig):
    model_type = "town"

class TownForCausalLM(LlamaForCausalLM):
    config_class = TownConfig
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(
        tmp_path_factory.mktemp("whole"),
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return shutil.copytree(whole, tmp_path / "model")


def _load(folder: Path, **config: Any) -> TorchRunner:
    return TorchRunner(EngineConfig(str(folder), **{"quantization": "fp32", **config}), lambda _share, _stage: None)


def _refused(folder: Path, sentence: str, **config: Any) -> None:
    with pytest.raises(ModelLoadError, match=sentence) as refused:
        _load(folder, **config)
    assert refused.value.code == "MODEL_LOAD_FAILED"
    assert str(folder.parent) not in refused.value.message


def _configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("bf16", ["read", "warm up"]),
        ("int8", ["read", "quantise", "warm up"]),
        ("int4", ["read", "quantise", "warm up"]),
    ],
)
def test_a_load_tells_its_stages_in_their_order(whole: Path, precision: str, expected: list[str]) -> None:
    told: list[tuple[float, str]] = []
    TorchRunner(EngineConfig(str(whole), quantization=precision), lambda share, stage: told.append((share, stage)))
    assert list(dict.fromkeys(stage for _, stage in told)) == expected
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert len(shares) > 4


def test_the_worker_hears_of_the_stages(whole: Path) -> None:
    told: list[Loading] = []
    client = EngineClient(
        EngineConfig(str(whole), quantization="int8", context_length=128, max_sequences=4),
        on_step=lambda _: None,
        on_exit=lambda _: None,
        on_loading=told.append,
    )
    try:
        ready = client.start()
        assert [message.stage for message in told if message.progress in (0.0, 1.0)] == [
            "import",
            "read",
            "warm up",
        ]
        assert (ready.context_length, ready.max_sequences, ready.devices) == (128, 4, ("cpu",))
        assert ready.device_bytes == {"cpu": ready.memory_bytes}
        assert ready.kv_tokens == 4 * 128
        assert 0 < ready.weight_bytes + ready.kv_cache_bytes < ready.memory_bytes
    finally:
        client.stop()


def test_an_engine_killed_while_it_loads_is_a_failed_load(demo_model: Path) -> None:
    loading = threading.Event()
    client = EngineClient(
        EngineConfig(str(demo_model)),
        on_step=lambda _: None,
        on_exit=lambda _: None,
        on_loading=lambda _: loading.set(),
    )
    killer = threading.Thread(target=lambda: (loading.wait(60), client.kill()))
    killer.start()
    with pytest.raises(EngineStartError, match="ended while it loaded") as failed:
        client.start()
    killer.join()
    assert failed.value.code == "MODEL_LOAD_FAILED"
    assert not client.alive


def test_files_that_are_cut_short(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    _refused(model, r"model\.safetensors can't be read: it is cut short")
    weights.write_bytes(b"")
    _refused(model, r"model\.safetensors can't be read: it is cut short")


def test_files_that_are_missing(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    _refused(model, r"index\.json names model-00002-of-00002\.safetensors, which is not there")
    (model / "model.safetensors.index.json").write_text("[]")
    _refused(model, "it is no index of weights")
    for file in model.glob("model*"):
        file.unlink()
    _refused(model, r"there are no weights \(\*\.safetensors\) in model")


def test_weights_that_are_missing(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    _refused(model, r"1 of the weights .* are not in the files, such as model\.layers\.1\.mlp\.up_proj\.weight")


def test_weights_that_are_missing_on_the_general_path(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder("gpt2"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "h.1.mlp.c_fc.weight" in name)
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    _refused(folder, "1 of the weights .* are not in the files")


def test_a_configuration_that_does_not_fit_the_weights(model: Path) -> None:
    _configure(model, hidden_size=128)
    _refused(model, r"the weight .* is \[.*\] in the files, but config\.json makes it \[.*128.*\]")
    _configure(model, hidden_size=64, num_hidden_layers=3)
    _refused(model, r"9 of the weights .* such as model\.layers\.2")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{not json", r"config\.json in model can't be read"),
        ("[]", r"config\.json in model is no configuration"),
        ('{"model_type": "nobody-knows"}', "the model type 'nobody-knows', which is not known"),
        ('{"model_type": "llama", "hidden_size": "big"}', r"config\.json in model can't be used"),
        ('{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}', "quantised by gptq"),
    ],
)
def test_a_broken_configuration(model: Path, text: str, sentence: str) -> None:
    (model / "config.json").write_text(text)
    _refused(model, sentence)


def test_a_missing_configuration_and_tokenizer(model: Path) -> None:
    for file in model.glob("token*"):
        file.unlink()
    _refused(model, "the tokenizer in model is missing or can't be used")
    (model / "config.json").unlink()
    _refused(model, r"there is no config\.json in model")


def test_pickles_are_read_only_where_that_is_allowed(whole: Path, model: Path) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    (model / "training_args.bin").write_bytes(b"no weights")
    _refused(model, r"are pickles \(pytorch_model\.bin\), which may run code")
    allowed = tokens_of(Harness(EngineConfig(str(model)), _load(model, allow_pickle=True)), prompts()[:3])
    assert allowed == tokens_of(Harness(EngineConfig(str(whole)), _load(whole)), prompts()[:3])


def test_a_pickle_that_runs_code_is_refused_also_where_pickles_are_allowed(model: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (model / "ran",))

    torch.save({"model.norm.weight": Evil()}, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    _refused(model, r"pytorch_model\.bin can't be read", allow_pickle=True)
    assert not (model / "ran").exists()


def test_a_models_own_code_runs_only_where_that_is_allowed(whole: Path, model: Path) -> None:
    (model / "town.py").write_text(_CODE)
    classes = {"AutoConfig": "town.TownConfig", "AutoModelForCausalLM": "town.TownForCausalLM"}
    _configure(model, model_type="town", auto_map=classes, architectures=["TownForCausalLM"])
    _refused(model, r"brings program code of its own \(town\.py\).*trust_remote_code")
    allowed = tokens_of(Harness(EngineConfig(str(model)), _load(model, trust_remote_code=True)), prompts()[:3])
    assert allowed == tokens_of(Harness(EngineConfig(str(whole)), _load(whole)), prompts()[:3])


def test_what_the_general_path_can_not_quantise_is_refused_by_name(model_folder: Callable[[str], Path]) -> None:
    _refused(model_folder("gpt2"), "gpt2 models can't be quantised here; use fp32, bf16 or fp16", quantization="int8")


def test_a_context_that_was_asked_for_is_kept_whole_or_refused(whole: Path) -> None:
    asked = {"context_length": 256, "max_sequences": 1}
    per_token = 2 * 2 * 2 * 16 * 4
    assert _load(whole, **asked, kv_cache_bytes=256 * per_token).facts.context_length == 256
    with pytest.raises(ModelLoadError, match=r"needs .* GB are free") as refused:
        _load(whole, **asked, kv_cache_bytes=128 * per_token)
    assert refused.value.code == "INSUFFICIENT_MEMORY"


def test_no_page_of_the_files_stays_mapped(whole: Path) -> None:
    runner = _load(whole, quantization="bf16")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system has no /proc")
    assert str(whole) not in maps.read_text()
    assert runner.facts.parameters > 0


def test_all_memory_is_back_after_the_end(whole: Path) -> None:
    client = EngineClient(EngineConfig(str(whole)), on_step=lambda _: None, on_exit=lambda _: None)
    client.start()
    assert client.pid is not None
    entry = Path("/proc") / str(client.pid)
    began = time.monotonic()
    client.stop()
    assert not client.alive
    assert not entry.exists()
    assert time.monotonic() - began < 10
