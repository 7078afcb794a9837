"""What each precision costs in quality: perplexity of a text, and how often the greedy token is that of fp32."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.report import Report, Row
from benchmarks.workload import story
from engine.messages import EngineConfig, Generate
from engine.params import SamplingParams
from engine.runtime.torch_runner import TorchRunner
from models_mgmt.demo import ensure_demo_model

MODELS_DIR = Path(__file__).parents[1] / ".cache" / "models"
# Written for this purpose, so that no model has learned it by heart.
TEXT = Path(__file__).parent / "texts" / "the_ferry.txt"
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int4")
# Batches of at most this many rows are multiplied with the 4-bit weights themselves, not with their dense twin.
_FEW_ROWS = 4


@dataclass(frozen=True)
class Extent:
    """How much is read: that many questions are answered with that many tokens each, and the text's first tokens."""

    questions: int
    answer_tokens: int
    text_tokens: int


WHOLE = Extent(questions=6, answer_tokens=48, text_tokens=10_000)


@dataclass(frozen=True)
class Quality:
    """`perplexity` of the text. `agreement`: the share of the greedy tokens of fp32's own answers that this precision
    would have chosen, too, reading the same beginning."""

    perplexity: float
    agreement: float


@dataclass(frozen=True)
class Answer:
    prompt: list[int]
    completion: list[int]


def load(folder: Path, precision: str, device: str = "cpu") -> TorchRunner:
    config = EngineConfig(str(folder), device=device, quantization=precision, context_length=1024, max_sequences=1)
    return TorchRunner(config, lambda _share, _stage: None)


def answers(runner: TorchRunner, extent: Extent = WHOLE) -> list[Answer]:
    """The greedy answers of a model to some questions, a token at a time."""
    found = []
    for index in range(extent.questions):
        prompt = runner.tokenizer.encode(Generate("q", SamplingParams(), text=story(index, 1)))
        completion = [int(runner.logits(prompt)[-1].argmax())]
        while len(completion) < extent.answer_tokens:
            read = prompt + completion
            completion.append(int(runner.logits(read, first=len(read) - 1)[-1].argmax()))
        found.append(Answer(prompt, completion))
    return found


def quality(runner: TorchRunner, given: Sequence[Answer], extent: Extent = WHOLE, *, rows: int = 256) -> Quality:
    """`given`: the answers of fp32. `rows`: how many tokens are read at a time."""
    text = runner.tokenizer.encode(Generate("t", SamplingParams(), text=TEXT.read_text(), raw=True))
    text = text[: extent.text_tokens]
    scores = torch.log_softmax(runner.logits(text, rows=rows)[:-1], -1)
    surprise = -scores.gather(1, torch.tensor(text[1:])[:, None]).mean()
    same = total = 0
    for answer in given:
        tokens = answer.prompt + answer.completion
        chosen = runner.logits(tokens, rows=rows).argmax(-1)[len(answer.prompt) - 1 : -1]
        same += int((chosen == torch.tensor(answer.completion)).sum())
        total += len(answer.completion)
    return Quality(perplexity=math.exp(float(surprise)), agreement=same / total)


def measured(folder: Path, device: str = "cpu", extent: Extent = WHOLE) -> Iterator[tuple[str, Quality]]:
    """Each precision's quality, fp32 first; int4 also with few rows, which its 4-bit kernel multiplies."""
    given: list[Answer] = []
    for precision in PRECISIONS:
        runner = load(folder, precision, device)
        given = given or answers(runner, extent)
        yield precision, quality(runner, given, extent)
        if precision == "int4":
            yield f"int4, {_FEW_ROWS} rows", quality(runner, given, extent, rows=_FEW_ROWS)


def report_on(report: Report, device: str = "cpu") -> None:
    folder = ensure_demo_model(models_dir=MODELS_DIR, say=lambda _text: None)
    found = dict(measured(folder, device))
    rows: list[Row] = [
        {
            "benchmark": "quality",
            "precision": name,
            "perplexity": round(figure.perplexity, 3),
            "agreement": round(figure.agreement, 4),
        }
        for name, figure in found.items()
    ]
    exact = found["fp32"].perplexity
    cells = [
        [name, f"{figure.perplexity:.3f}", f"{figure.perplexity / exact - 1:+.2%}", f"{figure.agreement:.1%}"]
        for name, figure in found.items()
    ]
    columns = ["precision", "perplexity", "against fp32", "greedy tokens as fp32"]
    report.add("Quality of the precisions on the demo model", columns, cells, rows)
