"""What plugins cost: the chain alone, and a server with none and with the five built-in ones."""

import json
import os
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import gateway, word_lists
from benchmarks.report import Report, Row
from tests.running_server import RunningServer, running_server

PROMPT = (
    "Please tell me what the weather is like in the north of the country on this day, and whether I can go there by "
    "train. Write to jane.doe@example.com or call +49 30 901820; my order is 12-3456. "
) * 4
LONG_PROMPT = (PROMPT * 6)[:4000]
ANSWER = (
    "The weather in the north is fine, and the train leaves at 9 in the morning from platform 12; the second one goes "
    "an hour later. If you have questions about the project, write to help@example.org, the office is open all day. "
) * 8
SETTINGS: dict[str, dict[str, Any]] = {
    "model_adapter_v1": {"system_prompt": "You are a helpful assistant."},
    "prompt_guard": {
        "max_characters": 8000,
        "languages": ["en", "de", "fr"],
        "rules": [{"words": ["ignore all previous instructions", "system prompt"]}, {"pattern": r"\bDROP\s+TABLE\b"}],
    },
    "pii_redactor": {},
    "response_filter": {
        "rules": [
            {"words": ["project zebra", "internal only", "confidential"]},
            {"pattern": r"\b[A-Z]{3}-\d{4}\b", "action": "replace", "replacement": "ID"},
        ]
    },
    "json_repair": {},
}
ROUNDS = 3
_TOKEN = 5  # characters
_MANY = range(1000)  # of what takes less time than to look at the clock


def costs(report: Report) -> None:
    """Measure the chain alone, lists of many words, then a server."""
    _chain(report)
    word_lists.costs(report)
    _servers(report)


# ---------------------------------------------------------------- the chain alone


def _chain(report: Report) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llama_gpu_site.settings")
    import django

    django.setup()
    from plugins_app.chain import Chain, Run
    from plugins_app.discovery import BUILT_IN
    from plugins_app.hookspecs import Prompt
    from tests.plugins_app.plugging import REQUEST, link, loaded

    found = sorted(BUILT_IN, key=lambda kind: kind.info.default_priority)
    chains = {kind.info.id: Chain([link(loaded(kind, SETTINGS[kind.info.id]))]) for kind in found}
    chains["all five"] = Chain([link(loaded(kind, SETTINGS[kind.info.id])) for kind in found])
    tokens = [ANSWER[at : at + _TOKEN] for at in range(0, len(ANSWER), _TOKEN)]
    rows: list[Row] = [_without()]
    for name, chain in chains.items():

        def begin(text: str, chain: Chain = chain) -> None:
            Run(chain, REQUEST, Prompt(text=text)).begin()

        def answer(chain: Chain = chain) -> None:
            output = Run(chain, REQUEST, Prompt(text=PROMPT)).output()
            if output is not None:
                for token in tokens:
                    output.feed(token)
                output.finish("")

        rows.append(
            {
                "benchmark": "plugins",
                "plugins": name,
                "request_ms": round(_seconds(partial(begin, PROMPT)) * 1000, 3),
                "long_request_ms": round(_seconds(partial(begin, LONG_PROMPT)) * 1000, 3),
                "token_us": round(_seconds(answer) / len(tokens) * 1e6, 2),
            }
        )
    cells = [[row["plugins"], row["request_ms"], row["long_request_ms"], row["token_us"]] for row in rows]
    cells.append(["goal for all five", "< 1", "", "< 20"])
    lengths = f"prompts of {len(PROMPT)} and {len(LONG_PROMPT)} characters"
    title = f"Plugins alone: {lengths}, an answer of {len(tokens)} tokens"
    report.add(title, ["plugins", "per request, ms", "of the long one, ms", "per token, µs"], cells, rows)
    _worker(report, chains["all five"], tokens[:120])


def _without() -> Row:
    """What a worker's seam for plugins costs each request, and each step of an engine, when none is loaded."""
    from engine.messages import Delta, Generate
    from engine.params import SamplingParams
    from inference.messages import Job
    from inference.plugin_chain import PluginSeam
    from inference.running import RunningTable
    from plugins_app.manager import PluginManager

    replies: Any = None  # nothing is refused, so nothing is told
    seam = PluginSeam(PluginManager(""), replies)
    request = Generate("1~1", SamplingParams(), text=PROMPT)
    job = Job("1", "1", "infer", "echo", "web", (request,), submitted_at=0.0, seconds=60.0)
    _, entries = RunningTable().add(job)
    step = (Delta("1~1", " word", 1),)
    request_ms = round(_seconds(lambda: [seam.prepare(job, entries) for _ in _MANY]) / len(_MANY) * 1000, 5)
    return {
        "benchmark": "plugins",
        "plugins": "none loaded",
        "request_ms": request_ms,
        "long_request_ms": request_ms,  # it isn't looked at
        "token_us": round(_seconds(lambda: [seam.passed(step) for _ in _MANY]) / len(_MANY) * 1e6, 3),
    }


def _worker(report: Report, chain: Any, tokens: list[str]) -> None:
    """What a token of a stream costs in a worker, filters and threads together."""
    ways = (
        ("all five, tokens as quick as they come", chain, 1, 0.0, False),
        ("all five, 16 streams, a token of each every 5 ms", chain, 16, 0.005, False),
        ("all five, one stream, a token every 5 ms", chain, 1, 0.005, False),
        ("the same in a thread of the request's own", chain, 1, 0.005, True),
        ("a package's plugin that does nothing, tokens as quick as they come", _idle_chain(), 1, 0.0, True),
    )
    rows: list[Row] = []
    for name, one, streams, pause, own_thread in ways:
        took = _token_seconds(one, tokens, streams=streams, pause=pause, own_thread=own_thread)
        plain = _token_seconds(None, tokens, streams=streams, pause=pause, own_thread=own_thread)
        rows.append({"benchmark": "plugins", "plugins": name, "token_us": round((took - plain) * 1e6, 1)})
    cells = [[row["plugins"], row["token_us"]] for row in rows]
    report.add("A token's way through a worker", ["plugins", "CPU per token, µs"], cells, rows)


def _idle_chain() -> Any:
    """Of a plugin that did not come with the server, whose filter lets everything pass."""
    from plugins_app.chain import Chain
    from plugins_app.hookspecs import hookimpl
    from tests.plugins_app.plugging import about, link, loaded

    hooks = {"token_stream": hookimpl(lambda self: lambda text, is_last: (text, ""))}
    return Chain([link(loaded(type("Idle", (), {"info": about("idle"), **hooks})))])


def _token_seconds(chain: Any, tokens: list[str], *, streams: int, pause: float, own_thread: bool) -> float:
    """CPU seconds a token, the median of several rounds; without a chain, of what measures."""
    from engine.messages import Delta, Finished

    names = [f"{number}~1" for number in range(streams)]
    rounds = []
    for _ in range(ROUNDS):
        worker = _Streams(chain, names, own_thread=own_thread)
        began = time.process_time()
        for count, token in enumerate(tokens):
            worker.put(tuple(Delta(name, token, count) for name in names))
            if pause:
                time.sleep(pause)
        text = "".join(tokens)
        worker.put(tuple(Finished(name, text, "", "stop", 1, len(tokens), 0, 0.0, 0.0, 0.0) for name in names))
        worker.wait()
        rounds.append((time.process_time() - began) / len(tokens) / streams)
    return statistics.median(rounds)


class _Streams:
    """A worker's seam for plugins with streams in work, each with its job's thread."""

    def __init__(self, chain: Any, names: list[str], *, own_thread: bool) -> None:
        from engine.messages import Generate
        from engine.params import SamplingParams
        from inference.messages import Job
        from inference.plugin_chain import PluginSeam
        from inference.running import RunningTable

        manager: Any = SimpleNamespace(take=lambda: chain, give_back=lambda chain: None)
        replies: Any = SimpleNamespace(put=self._send)
        self._seam = PluginSeam(manager, replies)
        self._parents: dict[str, Any] = {}
        self._threads = []
        table = RunningTable()
        for name in names:
            request = Generate(name, SamplingParams(), text=PROMPT, stream=True)
            job = Job(name, name, "stream_infer", "echo", "web", (request,), submitted_at=0.0, seconds=60.0)
            self._parents[name], entries = table.add(job)
            self._seam.prepare(job, entries)
            if own_thread and entries[0].plugged is not None:
                entries[0].plugged.has_own_thread = True
            self._threads.append(threading.Thread(target=self._seam.wait, args=(self._parents[name], 60.0)))
            self._threads[-1].start()

    def put(self, events: tuple[Any, ...]) -> None:
        """What an engine tells."""
        self._send(self._seam.passed(events))

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()

    def _send(self, events: Iterable[Any]) -> None:
        from engine.messages import Finished

        for event in events:
            if isinstance(event, Finished):
                self._parents[event.request_id].count_sent(1)


def _seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one run, the median of several rounds."""
    work()
    rounds = []
    for _ in range(ROUNDS):
        began, count = time.process_time(), 0
        while time.process_time() - began < 0.2:
            work()
            count += 1
        rounds.append((time.process_time() - began) / count)
    return statistics.median(rounds)


# ---------------------------------------------------------------- servers


def _servers(report: Report) -> None:
    """None loaded is measured twice, so that the difference can be seen against the noise."""
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), LLAMA_GPU_DEFAULT_MODEL="echo") as server,
    ):
        for name in ("none loaded", "all five", "none again"):
            for plugin_id, settings in SETTINGS.items():
                _switch(server, plugin_id, settings, on=name == "all five")
            time.sleep(1.0)
            for kind in ("infer", "stream"):
                (row,) = gateway.rows(server.url, server.api_key, kinds=[kind], callers=[1], seconds=3.0)
                rows.append({**row, "benchmark": "plugins", "plugins": name})
    names = ("plugins", "kind", "requests_per_second", "added_latency_p50_ms", "added_latency_p99_ms")
    cells = [[row[name] for name in names] for row in rows]
    titles = ["plugins", "kind", "requests/s", "p50, ms", "p99, ms"]
    report.add("Plugins in a server with the echo runner, one caller", titles, cells, rows)


def _switch(server: RunningServer, plugin_id: str, settings: dict[str, Any], *, on: bool) -> None:
    method, action = ("POST", "load") if on else ("DELETE", "unload")
    body = json.dumps({"config": {"settings": settings}}).encode() if on else None
    headers = {**server.headers, "Content-Type": "application/json"}
    url = f"{server.url}/api/v1/plugins/{plugin_id}/{action}"
    urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method)).close()  # noqa: S310  # our server
