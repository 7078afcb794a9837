"""The engine alone against transformers' generate and llama.cpp: output tokens per second, and time to first token."""

from benchmarks.contenders import Contestant
from benchmarks.report import Report, Row, median
from benchmarks.workload import PARALLEL

# Ours, the contender it is measured against, and how many times its figure the goal is.
PAIRS = (
    ("engine:fp32", "generate:fp32"),
    ("engine:bf16", "generate:bf16"),
    ("engine:int4", "llama.cpp"),
)
PROMPT_TOKENS = 512


def throughput(report: Report, rounds: int) -> None:
    """Every contender in turn within each round, so that a slow minute of the machine hits all alike."""
    contestants = [Contestant(name) for pair in PAIRS for name in pair]
    found: dict[tuple[str, int], list[float]] = {}
    for contestant in contestants:
        contestant.ask("throughput", 2, 0)
    for turn in range(1, rounds + 1):
        for parallel in PARALLEL:
            for contestant in contestants:
                figure = contestant.ask("throughput", parallel, 100 * turn + parallel)
                found.setdefault((contestant.name, parallel), []).append(figure)
    for contestant in contestants:
        contestant.close()
    middle = {key: median(values) for key, values in found.items()}
    rows: list[Row] = [
        {"benchmark": "engine", "contender": name, "parallel": parallel, "tokens_per_second": round(figure, 1)}
        for (name, parallel), figure in middle.items()
    ]
    cells = []
    for ours, theirs in PAIRS:
        for name in (ours, theirs):
            cells.append([name, *(f"{middle[name, parallel]:.0f}" for parallel in PARALLEL)])
        ratios = [f"**{middle[ours, parallel] / middle[theirs, parallel]:.2f}×**" for parallel in PARALLEL]
        cells.append(["ratio", *ratios])
    columns = ["output tokens/s, parallel requests:", *map(str, PARALLEL)]
    report.add(f"Engine throughput (median of {rounds})", columns, cells, rows)


def first_token(report: Report, rounds: int) -> None:
    """A prompt of 512 tokens, once new and once again, when its beginning is cached."""
    rows: list[Row] = []
    cells = []
    for name in ("engine:int4", "engine:fp32", "generate:fp32", "llama.cpp"):
        contestant = Contestant(name)
        contestant.ask("first_token", PROMPT_TOKENS, 0)
        pairs = [
            [contestant.ask("first_token", PROMPT_TOKENS, salt) for _ in range(2)] for salt in range(1, rounds + 1)
        ]
        contestant.close()
        fresh, cached = (median(figures) for figures in zip(*pairs, strict=True))
        rows.append(
            {"benchmark": "first_token", "contender": name, "fresh": round(fresh, 4), "cached": round(cached, 4)}
        )
        cells.append([name, f"{fresh * 1000:.0f} ms", f"{cached * 1000:.0f} ms", f"{fresh / cached:.1f}×"])
    columns = ["contender", "new", "again (prefix cached)", "gain"]
    report.add(f"Time to first token of {PROMPT_TOKENS} tokens (median of {rounds})", columns, cells, rows)
