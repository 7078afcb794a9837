"""Embeddings equal the mean of transformers' last hidden states, however prompts are cut up and mixed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.messages import EngineConfig, Generate
from engine.params import SamplingParams
from engine.runtime.detokenizer import Detokenizer
from engine.runtime.runner import RequestRefused, Runner
from engine.runtime.sequence import Sequence
from engine.runtime.torch_runner import TorchRunner
from tests.engine.conftest import Harness
from tests.engine.test_greedy_equality import prompts

NAMES = ("llama-gqa", "qwen3-norms", "gemma2-softcap", "gpt2", "gpt-neox")


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, model_folder: Callable[[str], Path]) -> tuple[Path, Runner]:
    folder = model_folder(request.param)
    return folder, TorchRunner(EngineConfig(str(folder), quantization="fp32"), lambda _share, _stage: None)


def reference(folder: Path, given: list[int]) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        hidden = model(torch.tensor([given]), output_hidden_states=True).hidden_states[-1][0]
    mean = hidden.mean(0)
    vector: np.ndarray = (mean / mean.norm()).numpy()
    return vector


def embed(harness: Harness, name: str, given: list[int]) -> str:
    request = Generate(name, SamplingParams(max_tokens=1), tokens=tuple(given), raw=True, embed=True)
    harness.inbox.put(Sequence(request, given, Detokenizer(harness.runner.tokenizer.decode)))
    return name


def vector_of(harness: Harness, name: str) -> np.ndarray:
    end = harness.finished(name)
    assert (end.finish_reason, end.completion_tokens, end.text) == ("stop", 0, "")
    return np.frombuffer(end.embedding, "<f4")


def test_they_equal_the_mean_of_the_last_hidden_states(case: tuple[Path, Runner]) -> None:
    folder, runner = case
    harness = Harness(EngineConfig(str(folder), prefill_chunk=48, mixed_chunk=20), runner)
    given = prompts()
    alone = harness.submit(given[3], max_tokens=30)
    harness.run()
    beside = harness.submit(given[3], max_tokens=30)
    harness.step(3)
    names = [embed(harness, f"e{at}", tokens) for at, tokens in enumerate(given)]
    harness.run()

    for name, tokens in zip(names, given, strict=True):
        vector = vector_of(harness, name)
        np.testing.assert_allclose(vector, reference(folder, tokens), atol=2e-5)
        assert abs(np.linalg.norm(vector) - 1) < 1e-5
        assert harness.finished(name).prompt_tokens == len(tokens)
    assert harness.tokens[beside] == harness.tokens[alone]


def test_a_beginning_that_is_in_the_cache_counts_too(model_folder: Callable[[str], Path]) -> None:
    harness = Harness(EngineConfig(str(model_folder("llama-gqa")), quantization="fp32"))
    given = prompts()[-1]
    first = embed(harness, "first", given)
    harness.run()
    second = embed(harness, "second", given)
    harness.run()

    assert vector_of(harness, first).tobytes() == vector_of(harness, second).tobytes()
    assert harness.finished(second).cached_tokens == 0


def test_one_that_gave_its_blocks_back_is_computed_anew(model_folder: Callable[[str], Path]) -> None:
    harness = Harness(EngineConfig(str(model_folder("llama-gqa")), quantization="fp32", prefill_chunk=32))
    given = prompts()[-1]
    whole = embed(harness, "whole", given)
    harness.run()
    broken = embed(harness, "broken", given)
    harness.step(2)
    (sequence,) = harness.loop.scheduler.running
    harness.loop.scheduler._preempt(sequence)
    harness.run()

    np.testing.assert_allclose(vector_of(harness, broken), vector_of(harness, whole), atol=1e-6)


def test_the_echo_runner_makes_none(echo: Harness) -> None:
    with pytest.raises(RequestRefused) as caught:
        echo.runner.tokenizer.encode(Generate("e", SamplingParams(), text="a", embed=True))
    assert caught.value.details == {"field": "model"}
