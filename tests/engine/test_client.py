"""The engine as a process of its own."""

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from engine.client import EngineClient, EngineGone, EngineStartError
from engine.messages import Accepted, Delta, EngineConfig, Failed, Finished, Generate, RequestEvent
from engine.params import SamplingParams

ECHO = EngineConfig(model_path="", runner="echo")


class _Engine(EngineClient):
    def __init__(self, config: EngineConfig) -> None:
        self.events: queue.Queue[RequestEvent] = queue.Queue()
        self.exits: list[int] = []
        self.exited = threading.Event()
        super().__init__(config, on_step=lambda step: [self.events.put(e) for e in step.events], on_exit=self._exit)

    def _exit(self, code: int) -> None:
        self.exits.append(code)
        self.exited.set()

    def until_end(self) -> list[RequestEvent]:
        events = []
        while True:
            events.append(self.events.get(timeout=10))
            if isinstance(events[-1], Finished | Failed):
                return events


@pytest.fixture
def engine() -> Iterator[_Engine]:
    client = _Engine(ECHO)
    client.start(30)
    yield client
    client.stop()


def _generate(text: str, **params: object) -> Generate:
    return Generate("r1", SamplingParams(**{"max_tokens": 8, **params}), text=text)  # type: ignore[arg-type]


def test_a_request_is_accepted_streamed_and_finished(engine: _Engine) -> None:
    engine.submit(_generate("grüße 日本 x"))
    first, *deltas, last = engine.until_end()
    assert isinstance(first, Accepted)
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert isinstance(last, Finished)
    assert "".join(d.text for d in deltas if isinstance(d, Delta)) + last.delta == last.text
    assert last.completion_tokens == 8


@pytest.mark.parametrize(
    ("params", "field"),
    [({"temperature": 0.001}, "temperature"), ({"max_tokens": 9000}, "max_tokens"), ({"top_p": float("nan")}, "top_p")],
)
def test_a_bad_request_fails_alone_and_names_the_field(engine: _Engine, params: dict[str, float], field: str) -> None:
    engine.submit(_generate("hello", **params))
    (end,) = engine.until_end()
    assert isinstance(end, Failed)
    assert (end.code, end.details["field"]) == ("INVALID_INPUT", field)
    engine.submit(_generate("hello"))
    assert isinstance(engine.until_end()[-1], Finished)


def test_a_request_never_takes_more_than_is_reserved_for_it(engine: _Engine) -> None:
    engine.submit(msgspec.structs.replace(_generate("one two three"), most_tokens=10))  # 3 + 8 tokens
    (end,) = engine.until_end()
    assert isinstance(end, Failed)
    assert end.code == "INVALID_INPUT"
    assert end.details == {"field": "max_tokens", "prompt_tokens": 3, "max_tokens": 8, "reserved_tokens": 10}
    engine.submit(msgspec.structs.replace(_generate("one two three"), most_tokens=11))
    assert isinstance(engine.until_end()[-1], Finished)


@pytest.mark.parametrize(("most_tokens", "generated"), [(10, 7), (4, 1), (3, None)])
def test_a_completion_that_fills_its_context_fills_what_is_reserved(
    engine: _Engine, most_tokens: int, generated: int | None
) -> None:
    request = _generate("one two three", max_tokens=2**31 - 1)
    engine.submit(msgspec.structs.replace(request, fills_context=True, most_tokens=most_tokens))
    end = engine.until_end()[-1]
    if generated is None:
        assert isinstance(end, Failed)
        assert (end.details["field"], end.details["reserved_tokens"]) == ("max_tokens", most_tokens)
    else:
        assert isinstance(end, Finished)
        assert (end.prompt_tokens, end.completion_tokens) == (3, generated)


def test_a_dying_engine_is_noticed_and_refuses_more(engine: _Engine) -> None:
    engine.submit(_generate("[[die]]"))
    assert engine.exited.wait(5)
    assert engine.exits == [13]
    assert not engine.alive
    with pytest.raises(EngineGone):
        engine.submit(_generate("hello"))
    engine.abort("r1")


def test_a_killed_engine_is_noticed(engine: _Engine) -> None:
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    assert engine.exited.wait(5)
    assert engine.exits == [-signal.SIGKILL]


def test_stop_cancels_what_runs_and_ends_the_process() -> None:
    client = _Engine(EngineConfig(model_path="", runner="echo", echo_delay=0.01))
    client.start(30)
    client.submit(_generate("hello", max_tokens=4000))
    assert isinstance(client.events.get(timeout=5), Accepted)
    client.stop()
    end = client.until_end()[-1]
    assert isinstance(end, Finished)
    assert end.finish_reason == "cancelled"
    assert not client.alive


def test_an_engine_whose_worker_dies_ends_itself() -> None:
    script = (
        "import sys, time\nfrom engine.client import EngineClient\nfrom engine.messages import EngineConfig\n"
        "c = EngineClient(EngineConfig(model_path='', runner='echo'), on_step=print, on_exit=print)\n"
        "c.start(30); print(c.pid, flush=True); time.sleep(60)"
    )
    import subprocess
    import sys

    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        worker.kill()
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (lambda path: EngineConfig(str(path)), "MODEL_LOAD_FAILED"),
        (lambda path: EngineConfig(str(path / "nowhere")), "MODEL_LOAD_FAILED"),
    ],
)
def test_a_broken_model_is_a_load_error(config: Callable[[Path], EngineConfig], code: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden')
    client = _Engine(config(tmp_path))
    with pytest.raises(EngineStartError) as error:
        client.start(60)
    assert error.value.code == code
    assert not client.alive
    assert client.exits == []


def test_an_absent_backend_is_a_load_error(model_folder: Callable[[str], Path]) -> None:
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() > 7:
        pytest.skip("this host has eight GPUs")
    client = _Engine(EngineConfig(str(model_folder("llama-gqa")), device="cuda:7"))
    with pytest.raises(EngineStartError) as error:
        client.start(60)
    assert error.value.code == "BACKEND_UNAVAILABLE"


def test_a_real_model_in_a_process_answers(model_folder: Callable[[str], Path]) -> None:
    client = _Engine(EngineConfig(str(model_folder("llama-gqa")), quantization="fp32"))
    ready = client.start(60)
    try:
        assert ready.architecture == "LlamaForCausalLM"
        assert ready.context_length == 512
        assert ready.memory_bytes > 0
        client.submit(_generate("hello", temperature=0.0, ignore_eos=True))
        end = client.until_end()[-1]
        assert isinstance(end, Finished)
        assert end.completion_tokens == 8
    finally:
        client.stop()
