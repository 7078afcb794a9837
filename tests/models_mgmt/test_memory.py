"""The estimate of a model's memory: its rules, and that a real engine process takes what it says."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from pytest_django import Settings

from engine.client import EngineClient, EngineStartError
from engine.messages import EngineConfig, Ready
from models_mgmt.engine_config import engine_config
from models_mgmt.expected_memory import expected_memory
from models_mgmt.facts import facts_of
from models_mgmt.inspection import ModelShape, inspect
from models_mgmt.memory import OWN, MemoryEstimate, cpu_multiplies_bf16, estimate, resolved_precision
from models_mgmt.models import Deployment, Model
from models_mgmt.needs import Needs
from tests.models_mgmt.made_models import model_files, write_files
from tests.random_models import random_model

MIB = 1024**2
LLAMA_3_8B = ModelShape(
    architecture="LlamaForCausalLM",
    model_type="llama",
    parameters=8_030_261_248,
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    tied_embeddings=False,
    context_length=8192,
    dtype="bfloat16",
    weight_bytes=16_060_556_376,
)


def _estimate(shape: ModelShape = LLAMA_3_8B, **asked: Any) -> MemoryEstimate:
    given = {"quantization": "bf16", "device_kind": "cuda", "context_length": None, "max_sequences": 32}
    return estimate(shape, **{**given, **asked})


def test_the_weights_of_a_known_model() -> None:
    assert _estimate().weights == pytest.approx(16_060_522_496, rel=0.001)  # 2 bytes for each parameter
    assert _estimate(quantization="fp32").weights == pytest.approx(32_121_044_992, rel=0.001)
    assert _estimate(quantization="int8").weights < 0.58 * _estimate().weights
    assert _estimate(quantization="int4").weights < 0.38 * _estimate().weights


def test_a_tied_head_costs_nothing_on_a_gpu_and_its_layout_on_a_cpu() -> None:
    tied = msgspec.structs.replace(LLAMA_3_8B, tied_embeddings=True)
    head = 128_256 * 4096 * 2
    assert _estimate().weights - _estimate(tied).weights == head
    assert _estimate(device_kind="cpu").weights == _estimate(tied, device_kind="cpu").weights


def test_4_bit_weights_keep_dense_ones_beside_them_on_the_cpu_if_they_are_small() -> None:
    small = msgspec.structs.replace(LLAMA_3_8B, layers=2)
    asked = {"quantization": "int4", "device_kind": "cpu"}
    dense = _estimate(small, device_kind="cpu").weights
    assert _estimate(small, **asked).weights > dense
    assert _estimate(small, **asked, max_memory_bytes=2 * 1024**3).weights < dense, "a cap leaves the twin out"
    assert _estimate(**asked).weights < _estimate(device_kind="cpu").weights / 2


def test_the_cache_holds_1024_tokens_for_each_sequence_or_one_whole_context() -> None:
    per_token = 131_072
    assert _estimate().kv_cache == 32 * 1024 * per_token
    assert _estimate(context_length=256).kv_cache == 32 * 256 * per_token
    assert _estimate(max_sequences=2).kv_cache == 8192 * per_token
    assert _estimate(quantization="fp32").kv_cache == 2 * _estimate().kv_cache
    assert _estimate(context_length=1_000_000).kv_cache == _estimate().kv_cache, "no longer than the model's own"
    assert _estimate(kv_cache_bytes=512 * MIB).kv_cache == 512 * MIB


def test_a_cap_shrinks_the_cache_and_tells_what_is_needed_at_least() -> None:
    whole = _estimate()
    capped = _estimate(max_memory_bytes=whole.total - 1000 * MIB)
    assert capped.total <= whole.total - 1000 * MIB
    assert whole.kv_cache - capped.kv_cache == pytest.approx(1000 * MIB, rel=0.01)
    assert capped.least == whole.least < capped.total
    assert _estimate(context_length=8192).least - whole.least == (8192 - 256) * 131_072, "an asked context is kept"
    assert whole.total == whole.weights + whole.kv_cache + whole.overhead


@pytest.mark.parametrize(
    ("gguf_type", "precision"),
    [("Q4_0", "int4"), ("Q4_K", "int4"), ("IQ2_XS", "int4"), ("MXFP4", "int4"), ("Q5_K", "int8"), ("Q6_K", "int8"),
     ("Q8_0", "int8"), ("F16", "bf16"), ("BF16", "bf16"), ("F32", "bf16")],
)  # fmt: skip
def test_a_gguf_files_own_precision_has_no_fewer_bits_than_the_file(gguf_type: str, precision: str) -> None:
    assert resolved_precision(OWN, "cpu", gguf_type) == resolved_precision(OWN, "cuda", gguf_type) == precision


def test_the_settings_size_of_the_cache_is_what_is_expected_and_asked_of_the_engine(
    tmp_path: Path, settings: Settings
) -> None:
    settings.ENGINE_KV_CACHE = 16 * 1024**2
    shape = inspect(write_files(tmp_path / "m", model_files(max_position_embeddings=2**20)))
    model = Model(id="m", source_kind="folder", path=str(tmp_path / "m"), **facts_of(shape, "m"))
    estimated = Needs(model, "bf16").estimate("cpu")
    assert estimated is not None
    assert estimated.kv_cache == 16 * 1024**2
    expected = expected_memory(model, "cpu")
    assert expected is not None
    assert expected.estimate.kv_cache == 16 * 1024**2
    assert engine_config(model, Deployment(model=model, device="cpu")).kv_cache_bytes == 16 * 1024**2


def test_auto_is_what_the_engine_makes_of_it(tmp_path: Path) -> None:
    assert resolved_precision("int8", "cpu") == "int8"
    assert resolved_precision("auto", "mps") == "fp16"
    assert resolved_precision("auto", "cuda", "Q4_1") == "bf16"
    on_cpu = "bf16" if cpu_multiplies_bf16() else "fp32"
    assert resolved_precision("auto", "cpu") == on_cpu
    assert resolved_precision("auto", "cpu", "Q4_1") == ("int4" if on_cpu == "bf16" else "fp32")
    (tmp_path / "cpuinfo").write_text("processor: 0\nflags\t\t: fpu sse avx2\n")
    assert not cpu_multiplies_bf16(tmp_path / "cpuinfo")
    assert not cpu_multiplies_bf16(tmp_path / "missing")


# ---------------------------------------------------------------- against what is measured

SHAPES: dict[str, dict[str, Any]] = {
    "wide": {
        "vocab_size": 32_000,
        "hidden_size": 1536,
        "intermediate_size": 4096,
        "num_hidden_layers": 4,
        "num_attention_heads": 24,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
    },
    "deep": {
        "vocab_size": 4000,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 30,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    },
    "vocabulary": {
        "family": "qwen2",
        "vocab_size": 100_000,
        "hidden_size": 896,
        "intermediate_size": 2432,
        "num_hidden_layers": 6,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shapes")
    return {name: random_model(folder / name, **shape) for name, shape in SHAPES.items()}


@contextmanager
def _engine(folder: Path, **config: Any) -> Iterator[tuple[Ready, int]]:
    """A loaded engine: what it says of itself, and the bytes it holds, seen from outside.

    Its own figure shares torch's pages with the other engines that happen to run; this one does not depend on them.
    """
    threads = int(os.environ.get("LLAMA_GPU_TEST_THREADS", "0"))
    client = EngineClient(
        EngineConfig(str(folder), threads=threads, **config), on_step=lambda _: None, on_exit=lambda _: None
    )
    try:
        ready = client.start()
        yield ready, psutil.Process(client.pid).memory_info().rss
    finally:
        client.stop()


def _agrees(folder: Path, **config: Any) -> None:
    shape = inspect(folder)
    with _engine(folder, **config) as (ready, held):
        asked = {"max_sequences": 32, "context_length": None, **config}
        expected = estimate(shape, device_kind="cpu", **asked)
        assert expected.total == pytest.approx(held, rel=0.1)
        assert 0.75 * held < ready.memory_bytes <= 1.02 * held
        assert expected.weights == pytest.approx(ready.weight_bytes, rel=0.01)
        assert expected.kv_cache == ready.kv_cache_bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "auto"])
def test_the_demo_model_takes_what_was_estimated(demo_model: Path, precision: str) -> None:
    _agrees(demo_model, quantization=precision)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("wide", {"quantization": "bf16", "max_sequences": 8}),
        ("wide", {"quantization": "int8", "context_length": 512}),
        ("deep", {"quantization": "fp32", "max_sequences": 16}),
        ("deep", {"quantization": "int4", "kv_cache_bytes": 256 * MIB}),
        ("vocabulary", {"quantization": "fp32", "context_length": 1024, "max_sequences": 4}),
        ("vocabulary", {"quantization": "int8"}),
    ],
)
def test_random_models_take_what_was_estimated(made: dict[str, Path], name: str, config: dict[str, Any]) -> None:
    _agrees(made[name], **config)


def test_a_cap_is_kept_by_a_smaller_cache(made: dict[str, Path]) -> None:
    shape, folder = inspect(made["deep"]), made["deep"]
    asked = {"quantization": "bf16", "max_sequences": 32}
    whole = estimate(shape, device_kind="cpu", context_length=None, **asked)
    cap = whole.total - whole.kv_cache // 2
    with _engine(folder, max_memory_bytes=cap, **asked) as (ready, held):
        assert held <= 1.02 * cap
        assert 0.3 * whole.kv_cache < ready.kv_cache_bytes < 0.6 * whole.kv_cache
        assert ready.context_length == 1024
        assert ready.kv_tokens >= 1024


def test_a_cap_below_what_is_needed_is_refused_with_the_sizes_before_anything_is_read(made: dict[str, Path]) -> None:
    shape, folder = inspect(made["wide"]), made["wide"]
    least = estimate(shape, quantization="bf16", device_kind="cpu", context_length=None, max_sequences=4).least
    stages = []
    client = EngineClient(
        EngineConfig(str(folder), quantization="bf16", max_sequences=4, max_memory_bytes=least // 2),
        on_step=lambda _: None,
        on_exit=lambda _: None,
        on_loading=lambda message: stages.append(message.progress),
    )
    with pytest.raises(EngineStartError, match=r"needs \d\.\d\d GB and \d\.\d\d GB are free") as refused:
        client.start()
    assert refused.value.code == "INSUFFICIENT_MEMORY"
    assert refused.value.needed_bytes == pytest.approx(least, rel=0.05)
    assert refused.value.free_bytes == least // 2
    assert max(stages) <= 0.1
    assert not client.alive
