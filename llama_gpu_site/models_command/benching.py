"""`manage.py models bench`: how fast a running server's model is, without HTTP in between."""

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import Any, TextIO

from common.redis import close_async_redis
from engine.messages import Finished, Generate
from engine.params import SamplingParams
from inference.gateway import close_gateway, gateway
from llama_gpu_site.models_command.progress_bar import ProgressBar
from llama_gpu_site.models_command.running import use_embedded_redis
from llama_gpu_site.models_command.table import table
from models_mgmt.selectors import resolve_model

HELP = "Measure a model of the running server: speed and waiting times at so many parallel requests."
_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Measured:
    """One request, as its caller sees it; `seconds` from submission to the end."""

    seconds: float
    first_token: float
    tokens: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="default", help='an id, an alias, or "default"')
    parser.add_argument("--requests", type=int, default=16, help="how many in all")
    parser.add_argument("--parallel", type=int, default=4, help="how many at once")
    parser.add_argument("--prompt-words", type=int, default=50, help="length of the prompts")
    parser.add_argument("--max-tokens", type=int, default=64, help="length of the answers")


def run(options: dict[str, Any], out: TextIO) -> None:
    use_embedded_redis()
    model_id = resolve_model(options["model"]).pk
    bar = ProgressBar()
    try:
        measured, seconds = asyncio.run(_bench(model_id, options, bar))
    finally:
        bar.close()
    latencies = [item.seconds for item in measured]
    rows = [
        ("requests", f"{len(measured)}, {options['parallel']} at once"),
        ("output tokens/s", f"{sum(item.tokens for item in measured) / seconds:.1f}"),
        ("requests/s", f"{len(measured) / seconds:.2f}"),
        ("time to first token", f"{_ms([item.first_token for item in measured])}"),
        ("latency", f"{_ms(latencies)}"),
    ]
    out.write(table((model_id, "median (slowest)"), rows) + "\n")


async def _bench(model_id: str, options: dict[str, Any], bar: ProgressBar) -> tuple[list[_Measured], float]:
    """One request to have the model loaded and warm, then all; the seconds are those of the latter."""
    try:
        bar("warm up", 0.0)
        await _one(model_id, 0, options)
        bar("warm up", 1.0)
        done: list[_Measured] = []
        places = asyncio.Semaphore(max(1, options["parallel"]))

        async def one(number: int) -> None:
            async with places:
                done.append(await _one(model_id, number, options))
                bar("measure", len(done) / options["requests"])

        began = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(1, options["requests"] + 1)))
        return done, time.perf_counter() - began
    finally:
        await close_gateway()
        await close_async_redis()


async def _one(model_id: str, number: int, options: dict[str, Any]) -> _Measured:
    road = gateway()
    words = " ".join(f"word{number}x{index}" for index in range(max(1, options["prompt_words"])))
    params = SamplingParams(max_tokens=options["max_tokens"], temperature=0.0, ignore_eos=True)
    request = Generate(road.new_id("bench"), params, text=words, raw=True, stream=False)
    began = time.perf_counter()
    (call,) = await road.submit([request], request_id="bench", kind="infer", model_id=model_id, seconds=_SECONDS)
    try:
        end: Finished = await call.result()
    finally:
        road.close(call)
    return _Measured(time.perf_counter() - began, end.time_to_first_token, end.completion_tokens)


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} ms ({max(seconds) * 1000:.0f} ms)"
