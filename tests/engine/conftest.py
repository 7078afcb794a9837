"""Small models with random weights, and a harness that runs the engine's loop step by step in this process."""

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from engine.messages import EngineConfig, Failed, Finished, Generate, RequestEvent, Step
from engine.params import SamplingParams
from engine.runtime.detokenizer import Detokenizer
from engine.runtime.loop import AbortRequest, EngineLoop, Inbox
from engine.runtime.process import build_loop, load_runner
from engine.runtime.runner import Runner
from engine.runtime.sequence import Sequence

VOCABULARY = 320
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# What the fast path must get right: with and without GQA, tied and untied heads, biases, head norms, RoPE scaling and
# a head size that the native kernels don't take; and other families for the general path.
_MODELS: dict[str, tuple[Callable[[Any], Any], Callable[[], Any]]] = {
    "llama-gqa": (LlamaForCausalLM, lambda: LlamaConfig(**_SHAPE, num_key_value_heads=2, tie_word_embeddings=False)),
    "llama-mha-tied": (
        LlamaForCausalLM,
        lambda: LlamaConfig(**_SHAPE, num_key_value_heads=6, tie_word_embeddings=True),
    ),
    "llama-mqa-odd-head": (LlamaForCausalLM, lambda: LlamaConfig(**_SHAPE, num_key_value_heads=1, head_dim=24)),
    "llama3-rope": (
        LlamaForCausalLM,
        lambda: LlamaConfig(
            **_SHAPE,
            num_key_value_heads=3,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
    ),
    "qwen2-bias": (Qwen2ForCausalLM, lambda: Qwen2Config(**_SHAPE, num_key_value_heads=2)),
    "qwen3-norms": (Qwen3ForCausalLM, lambda: Qwen3Config(**_SHAPE, num_key_value_heads=2, head_dim=32)),
    "mistral-window": (
        MistralForCausalLM,
        lambda: MistralConfig(**_SHAPE, num_key_value_heads=2, sliding_window=40),
    ),
    "gemma2-softcap": (
        Gemma2ForCausalLM,
        lambda: Gemma2Config(
            **_SHAPE, num_key_value_heads=2, head_dim=16, sliding_window=40, query_pre_attn_scalar=16, pad_token_id=0
        ),
    ),
    "gpt2": (GPT2LMHeadModel, lambda: GPT2Config(**{k: v for k, v in _SHAPE.items() if k != "intermediate_size"})),
    "gpt-neox": (GPTNeoXForCausalLM, lambda: GPTNeoXConfig(**_SHAPE)),
}
MODEL_NAMES = tuple(_MODELS)


def make_model(name: str, folder: Path) -> Path:
    """Write a random model of that kind with a byte-level tokenizer."""
    torch.manual_seed(7)
    model_class, make_config = _MODELS[name]
    model = model_class(make_config())
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than the usual initialisation, so that the scores are far apart and greedy choices are no ties.
            parameter.normal_(0, 0.12) if parameter.dim() > 1 else parameter.uniform_(0.5, 1.5)
    return save_with_tokenizer(model, folder)


def save_with_tokenizer(model: Any, folder: Path) -> Path:
    """Write a model with a byte-level tokenizer."""
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {letter: 3 + at for at, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a random model by name, made at the first call."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = make_model(name, tmp_path_factory.mktemp(name))
        return made[name]

    return folder


class Harness:
    """An engine without a process: put requests in, run steps, look at the events."""

    def __init__(self, config: EngineConfig, runner: Runner | None = None) -> None:
        self.runner = runner or load_runner(config, lambda _share, _stage: None)
        self.inbox: Inbox = queue.SimpleQueue()
        self.steps: list[Step] = []
        self.loop: EngineLoop = build_loop(config, self.runner, self.inbox, self.steps.append)
        self.tokens: dict[str, list[int]] = {}  # of every ended request
        self._finish = self.loop.scheduler.finish
        self.loop.scheduler.finish = self._keep_tokens  # type: ignore[method-assign]
        self._count = 0

    @property
    def events(self) -> list[RequestEvent]:
        return [event for step in self.steps for event in step.events]

    def submit(self, text: str | list[int], *, priority: int = 0, stream: bool = True, **params: Any) -> str:
        """Queue a completion of a text, or of given tokens; greedy unless told otherwise."""
        self._count += 1
        given = SamplingParams(**{"temperature": 0.0, "max_tokens": 16, **params}).validate()
        words = text if isinstance(text, str) else None
        request = Generate(f"r{self._count}", given, text=words, raw=True, priority=priority, stream=stream)
        prompt = self.runner.tokenizer.encode(request) if isinstance(text, str) else text
        self.inbox.put(Sequence(request, prompt, Detokenizer(self.runner.tokenizer.decode, given.stop)))
        return request.request_id

    def abort(self, request_id: str) -> None:
        self.inbox.put(AbortRequest(request_id))

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.loop.step()

    def run(self) -> None:
        """Run until nothing is left to do."""
        while not (self.loop.scheduler.idle and self.inbox.empty()):
            self.loop.step()

    def _keep_tokens(self, sequence: Sequence) -> None:
        self.tokens[sequence.request_id] = sequence.completion
        self._finish(sequence)

    def end(self, request_id: str) -> Finished | Failed:
        """The request's one end; there must be exactly one."""
        ends = [e for e in self.events if e.request_id == request_id and isinstance(e, Finished | Failed)]
        assert len(ends) == 1, f"{request_id} has {len(ends)} ends"
        return ends[0]

    def finished(self, request_id: str) -> Finished:
        end = self.end(request_id)
        assert isinstance(end, Finished), end
        return end


@pytest.fixture
def echo() -> Harness:
    return Harness(EngineConfig(model_path="", runner="echo"))
