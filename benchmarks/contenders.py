"""One contender in a process of its own, told what to measure by lines of JSON: `python -m benchmarks.contenders NAME`.

Names: `engine:PRECISION` (ours), `generate:PRECISION` (transformers' model.generate on one static batch) and
`llama.cpp` (xllamacpp, the 4-bit GGUF). Every one gets the same prompts, greedy, with the end of text ignored.
"""

import json
import queue
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from benchmarks.workload import NEW_TOKENS, long_text, story
from engine.client import EngineClient
from engine.messages import EngineConfig, Failed, Finished, Generate
from engine.params import SamplingParams
from models_mgmt.demo import ensure_demo_model, ensure_gguf

MODELS_DIR = Path(__file__).parents[1] / ".cache" / "models"
SLOTS = 16


class Contender(Protocol):
    def throughput(self, parallel: int, salt: int) -> float:
        """Output tokens per second of so many requests at once, from the first one's start to the last one's end."""

    def first_token(self, tokens: int, salt: int) -> float:
        """Seconds to the first token of a prompt of so many tokens that differs by its salt from the first one on."""


class EngineContender:
    """The engine process behind its client, without worker, web and plugins."""

    def __init__(self, precision: str) -> None:
        self._ends: queue.SimpleQueue[Finished | Failed] = queue.SimpleQueue()
        folder = ensure_demo_model(models_dir=MODELS_DIR, say=_quiet)
        config = EngineConfig(str(folder), quantization=precision, max_sequences=32)
        self._client = EngineClient(config, on_step=self._on_step, on_exit=lambda _code: None)
        self._client.start()
        self._count = 0

    def throughput(self, parallel: int, salt: int) -> float:
        began = time.perf_counter()
        for index in range(parallel):
            self._submit(story(index, salt), NEW_TOKENS, raw=False)
        tokens = sum(self._end().completion_tokens for _ in range(parallel))
        return tokens / (time.perf_counter() - began)

    def first_token(self, tokens: int, salt: int) -> float:
        text = _text_of(tokens, salt)
        began = time.perf_counter()
        self._submit(text, 1, raw=True)
        end = self._end()
        if abs(end.prompt_tokens - tokens) > 2:
            raise SystemExit(f"the prompt has {end.prompt_tokens} tokens, not {tokens}")
        return time.perf_counter() - began

    def _submit(self, text: str, new: int, *, raw: bool) -> None:
        self._count += 1
        params = SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
        self._client.submit(Generate(f"b{self._count}", params, text=text, raw=raw))

    def _end(self) -> Finished:
        end = self._ends.get(timeout=300)
        if isinstance(end, Failed):
            raise SystemExit(end.message)
        return end

    def _on_step(self, step: Any) -> None:
        for event in step.events:
            if isinstance(event, Finished | Failed):
                self._ends.put(event)


class GenerateContender:
    """transformers' model.generate: all prompts padded into one batch that starts and ends together."""

    def __init__(self, precision: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = ensure_demo_model(models_dir=MODELS_DIR, say=_quiet)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")

    def throughput(self, parallel: int, salt: int) -> float:
        began = time.perf_counter()
        turns = [[{"role": "user", "content": story(index, salt)}] for index in range(parallel)]
        batch = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=True, padding=True, return_tensors="pt"
        )
        self._generate(batch, NEW_TOKENS)
        return parallel * NEW_TOKENS / (time.perf_counter() - began)

    def first_token(self, tokens: int, salt: int) -> float:
        batch = self._tokenizer(long_text(salt), return_tensors="pt", truncation=True, max_length=tokens)
        began = time.perf_counter()
        self._generate(batch, 1)
        return time.perf_counter() - began

    def _generate(self, batch: Any, new: int) -> None:
        self._model.generate(**batch, max_new_tokens=new, min_new_tokens=new, do_sample=False)


class LlamaCppContender:
    """llama.cpp in this process, continuous batching over SLOTS slots."""

    def __init__(self) -> None:
        self._server = llama_cpp_server()

    def throughput(self, parallel: int, salt: int) -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(parallel) as pool:
            counts = list(
                pool.map(lambda index: self._complete(_templated(story(index, salt)), NEW_TOKENS), range(parallel))
            )
        return sum(counts) / (time.perf_counter() - began)

    def first_token(self, tokens: int, salt: int) -> float:
        text = _text_of(tokens, salt)
        began = time.perf_counter()
        self._complete(text, 1)
        return time.perf_counter() - began

    def _complete(self, prompt: str, new: int) -> int:
        answer = self._server.handle_completions(
            {"prompt": prompt, "n_predict": new, "temperature": 0, "ignore_eos": True, "cache_prompt": True}
        )
        if "usage" not in answer:
            raise SystemExit(f"llama.cpp answered {answer}")
        return int(answer["usage"]["completion_tokens"])


def llama_cpp_server(port: int = 0) -> Any:
    """llama.cpp's server with the demo model's GGUF; it also listens on HTTP at `listening_address`."""
    import os

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(ensure_gguf(models_dir=MODELS_DIR, say=_quiet))
    params.n_parallel = SLOTS
    params.n_ctx = 1024 * SLOTS  # shared out among the slots
    params.n_predict = 256
    params.warmup = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 1
    params.port = port
    return xllamacpp.Server(params)


def _text_of(tokens: int, salt: int) -> str:
    """A text of so many tokens of the demo model."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ensure_demo_model(models_dir=MODELS_DIR, say=_quiet))
    text: str = tokenizer.decode(tokenizer.encode(long_text(salt))[:tokens])
    return text


def _templated(text: str) -> str:
    """SmolLM2's chat template, as the tokenizer's own has it."""
    return (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    )


def _quiet(_text: str) -> None:
    """Contenders speak JSON on standard output, nothing else."""


def make(name: str) -> Contender:
    kind, _, precision = name.partition(":")
    if kind == "engine":
        return EngineContender(precision)
    if kind == "generate":
        return GenerateContender(precision)
    return LlamaCppContender()


class Contestant:
    """A contender's process as the benchmark sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contenders", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._line()

    def ask(self, call: str, *arguments: int) -> float:
        """Call a method of the contender and return its figure."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([call, *arguments]) + "\n")
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the contender {self.name} ended with status {self._process.wait()}")
        return line


def main() -> None:
    out = sys.stdout
    sys.stdout = sys.stderr  # libraries may print
    contender = make(sys.argv[1])
    out.write("ready\n")
    out.flush()
    for line in sys.stdin:
        call, *arguments = json.loads(line)
        out.write(f"{getattr(contender, call)(*arguments)}\n")
        out.flush()


if __name__ == "__main__":
    main()
