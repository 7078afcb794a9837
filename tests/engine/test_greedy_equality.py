"""Greedy output equals transformers' `generate`, token by token: alone, in any mix of batch, by every path."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.messages import EngineConfig
from engine.runtime.runner import Runner
from engine.runtime.torch_runner import TorchRunner
from tests.engine.conftest import MODEL_NAMES, VOCABULARY, Harness

LENGTHS = (1, 15, 16, 17, 33, 70, 130)
NEW = 24


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 259, (length,), generator=generator).tolist() for length in LENGTHS]


def reference(folder: Path, given: list[list[int]], new: int = NEW) -> list[list[int]]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    outputs = []
    for prompt in given:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        outputs.append(out[0, len(prompt) :].tolist())
    return outputs


def tokens_of(harness: Harness, given: list[list[int]], new: int = NEW, *, stagger: int = 0) -> list[list[int]]:
    """The tokens that the engine generates for each prompt; a new one comes in every `stagger` steps."""
    names = []
    for prompt in given:
        names.append(harness.submit(prompt, max_tokens=new, ignore_eos=True))
        harness.step(stagger)
    harness.run()
    return [harness.tokens[name] for name in names]


@pytest.fixture(scope="module", params=MODEL_NAMES)
def case(request: pytest.FixtureRequest, model_folder: Callable[[str], Path]) -> tuple[Path, Runner, list[list[int]]]:
    folder = model_folder(request.param)
    runner = TorchRunner(EngineConfig(str(folder), quantization="fp32"), lambda _share, _stage: None)
    assert runner.facts.vocab_size == VOCABULARY
    return folder, runner, reference(folder, prompts())


def _harness(folder: Path, runner: Runner, **config: object) -> Harness:
    return Harness(EngineConfig(str(folder), quantization="fp32", **config), runner)  # type: ignore[arg-type]


def test_it_equals_generate_alone(case: tuple[Path, Runner, list[list[int]]]) -> None:
    folder, runner, expected = case
    for prompt, wanted in zip(prompts(), expected, strict=True):
        assert tokens_of(_harness(folder, runner), [prompt]) == [wanted]


def test_it_equals_generate_in_one_batch(case: tuple[Path, Runner, list[list[int]]]) -> None:
    folder, runner, expected = case
    assert tokens_of(_harness(folder, runner), prompts()) == expected


def test_it_equals_generate_when_sequences_join_and_leave_with_chunked_prefill(
    case: tuple[Path, Runner, list[list[int]]],
) -> None:
    folder, runner, expected = case
    harness = _harness(folder, runner, prefill_chunk=32, mixed_chunk=7, max_sequences=4)
    assert tokens_of(harness, prompts(), stagger=2) == expected


def test_it_equals_generate_beside_sampled_sequences(case: tuple[Path, Runner, list[list[int]]]) -> None:
    folder, runner, expected = case
    harness = _harness(folder, runner)
    for seed in range(3):
        harness.submit([5, 6, 7, 8], max_tokens=40, temperature=1.3, top_p=0.9, seed=seed, ignore_eos=True)
    assert tokens_of(harness, prompts()) == expected


def test_it_equals_generate_with_a_cached_prefix(case: tuple[Path, Runner, list[list[int]]]) -> None:
    folder, runner, expected = case
    harness = _harness(folder, runner)
    prompt, wanted = prompts()[-1], expected[-1]
    tokens_of(harness, [prompt])
    again = harness.submit(prompt, max_tokens=NEW, ignore_eos=True)
    harness.run()
    assert harness.finished(again).cached_tokens == 128
    assert harness.finished(again).text == harness.finished("r1").text
    assert tokens_of(harness, [prompt]) == [wanted]


def test_it_equals_generate_after_preemption(model_folder: Callable[[str], Path]) -> None:
    folder = model_folder("llama-gqa")
    given = prompts()[1:6]
    config = EngineConfig(
        str(folder), quantization="fp32", context_length=256, kv_cache_bytes=18 * 16 * 2 * 3 * 2 * 16 * 4
    )
    runner = TorchRunner(config, lambda _share, _stage: None)
    assert runner.facts.kv_blocks == 18, "the cache is meant to be too small for all at once"
    harness = Harness(config, runner)
    preempted = 0
    preempt = harness.loop.scheduler._preempt

    def count(sequence: object) -> None:
        nonlocal preempted
        preempted += 1
        preempt(sequence)  # type: ignore[arg-type]

    harness.loop.scheduler._preempt = count  # type: ignore[method-assign,assignment]
    assert tokens_of(harness, given, 60) == reference(folder, given, 60)
    assert preempted > 0


def test_portable_kernels_equal_generate(model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_GPU_NATIVE_KERNELS", "0")
    for name in ("llama-gqa", "qwen3-norms"):
        folder = model_folder(name)
        runner = TorchRunner(EngineConfig(str(folder), quantization="fp32"), lambda _share, _stage: None)
        assert tokens_of(_harness(folder, runner), prompts()) == reference(folder, prompts())
