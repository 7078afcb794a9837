"""The bundled demo model: a real chat model, through the whole engine."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.messages import ChatTurn, EngineConfig, Generate
from engine.params import SamplingParams
from engine.runtime.torch_runner import TorchRunner
from tests.engine.conftest import Harness

QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain photosynthesis to a child, in three sentences.",
    "List five prime numbers.",
)


@pytest.fixture(scope="module")
def exact(demo_model: Path) -> Harness:
    config = EngineConfig(str(demo_model), quantization="fp32", context_length=1024, max_sequences=8)
    return Harness(config, TorchRunner(config, lambda _share, _stage: None))


def _chat(text: str) -> Generate:
    return Generate("r", SamplingParams(), text=text)


def test_greedy_answers_equal_generate_alone_and_together(exact: Harness, demo_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32)
    tokenizer = exact.runner.tokenizer
    prompts = [tokenizer.encode(_chat(question)) for question in QUESTIONS]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False)
        expected.append(out[0, len(prompt) :].tolist())
    names = [exact.submit(prompt, max_tokens=32) for prompt in prompts]
    exact.run()
    assert [exact.tokens[name] for name in names] == expected
    alone = exact.submit(prompts[1], max_tokens=32)
    exact.run()
    assert exact.tokens[alone] == expected[1]


def test_chats_are_laid_out_by_the_models_own_template(exact: Harness, demo_model: Path) -> None:
    reference = AutoTokenizer.from_pretrained(demo_model)
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "?"},
    ]
    wanted = reference.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    messages = tuple(ChatTurn(turn["role"], turn["content"]) for turn in turns)
    assert exact.runner.tokenizer.encode(Generate("r", SamplingParams(), messages=messages)) == list(wanted)
    raw = exact.runner.tokenizer.encode(Generate("r", SamplingParams(), text="Hi", raw=True))
    assert raw == reference.encode("Hi")


def test_text_is_what_the_tokenizer_makes_of_all_tokens(exact: Harness, demo_model: Path) -> None:
    name = exact.submit("Emoji 🦙, 北京 and naïve café:", max_tokens=60, temperature=1.5, seed=11, ignore_eos=True)
    exact.run()
    reference = AutoTokenizer.from_pretrained(demo_model)
    whole = reference.decode(exact.tokens[name], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert exact.finished(name).text == whole


def test_by_default_its_4_bit_weights_are_kept_where_that_is_fast(demo_model: Path) -> None:
    config = EngineConfig(str(demo_model), context_length=512, max_sequences=4)
    harness = Harness(config, TorchRunner(config, lambda _share, _stage: None))
    assert harness.runner.facts.quantization in ("int4", "fp32")
    prompt = harness.runner.tokenizer.encode(_chat("What is the capital of France?"))
    name = harness.submit(prompt, max_tokens=24)
    harness.run()
    assert "Paris" in harness.finished(name).text
    assert harness.finished(name).finish_reason == "stop"
