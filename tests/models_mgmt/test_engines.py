"""The worker's engine pool, over real echo engines."""

import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from engine.client import EngineGone
from engine.messages import Accepted, Failed, Finished, Generate, RequestEvent
from engine.params import SamplingParams
from models_mgmt.engines import EnginePool, LoadError, backend_of, torch_device
from models_mgmt.models import Model


class Seen:
    """What the engines told."""

    def __init__(self) -> None:
        self._events: queue.Queue[RequestEvent] = queue.Queue()

    def put(self, events: tuple[RequestEvent, ...]) -> None:
        for event in events:
            self._events.put(event)

    def end_of(self, request_id: str) -> RequestEvent:
        while True:
            event = self._events.get(timeout=10)
            if event.request_id == request_id and isinstance(event, Finished | Failed):
                return event

    def acceptance_of(self, request_id: str) -> None:
        while True:
            event = self._events.get(timeout=10)
            if event.request_id == request_id and isinstance(event, Accepted):
                return


def rows(model_id: str) -> Model:
    kinds = {"echo": Model.SourceKind.ECHO, "unprepared": Model.SourceKind.FOLDER}
    if model_id not in kinds:
        raise LoadError("MODEL_NOT_FOUND", "no such model")
    return Model(id=model_id, source_kind=kinds[model_id])


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def pool(seen: Seen, settings: Any) -> Iterator[EnginePool]:
    settings.ECHO_DELAY_SECONDS = 0.01
    pool = EnginePool(device="cpu", on_events=seen.put, load_row=rows)
    yield pool
    pool.stop()


def generate(request_id: str, tokens: int = 2) -> Generate:
    return Generate(request_id, SamplingParams(max_tokens=tokens), text="a b")


def test_it_loads_on_demand_and_reports(pool: EnginePool, seen: Seen) -> None:
    assert pool.reports() == ()

    pool.get("echo").submit(generate("r1"))

    end = seen.end_of("r1")
    assert isinstance(end, Finished)
    assert end.text == "a b"
    (report,) = pool.reports()
    assert (report.model_id, report.state, report.in_flight) == ("echo", "loaded", 0)
    assert report.ready is not None
    assert report.pid


def test_loading_twice_at_once_loads_once(pool: EnginePool) -> None:
    engines: list[Any] = []
    threads = [threading.Thread(target=lambda: engines.append(pool.get("echo"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert len(engines) == 8
    assert len(set(map(id, engines))) == 1


def test_a_dead_engine_fails_what_it_ran_and_the_next_get_starts_another(pool: EnginePool, seen: Seen) -> None:
    engine = pool.get("echo")
    engine.submit(generate("r1", 5000))
    seen.acceptance_of("r1")
    pid = engine.report().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    end = seen.end_of("r1")
    assert isinstance(end, Failed)
    assert end.code == "INFERENCE_FAILED"
    with pytest.raises(EngineGone):
        engine.submit(generate("r2"))
    another = pool.get("echo")
    assert another.report().pid != pid
    another.submit(generate("r3"))
    assert isinstance(seen.end_of("r3"), Finished)


def test_an_engine_that_has_lived_is_restarted_before_anybody_asks(
    pool: EnginePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models_mgmt.engines.RESTART_SECONDS", 0.0)
    first = pool.get("echo").report().pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while pool.reports()[0].pid in {first, None} or pool.reports()[0].state != "loaded":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_failed_load_names_its_code_and_leaves_the_pool_working(pool: EnginePool) -> None:
    for model_id, code in (("unprepared", "MODEL_LOAD_FAILED"), ("unknown", "MODEL_NOT_FOUND")):
        with pytest.raises(LoadError) as caught:
            pool.get(model_id)
        assert caught.value.code == code

    assert pool.get("echo").state == "loaded"


def test_an_aborted_request_ends_as_cancelled(pool: EnginePool, seen: Seen) -> None:
    engine = pool.get("echo")
    engine.submit(generate("r1", 5000))
    seen.acceptance_of("r1")
    engine.abort("r1")

    end = seen.end_of("r1")
    assert isinstance(end, Finished)
    assert end.finish_reason == "cancelled"


def test_a_stopped_pool_loads_nothing_more(pool: EnginePool) -> None:
    pool.get("echo")
    pool.stop()

    with pytest.raises(LoadError) as caught:
        pool.get("echo")

    assert caught.value.code in {"BACKEND_UNAVAILABLE", "INFERENCE_FAILED"}


def test_devices_have_the_names_that_torch_and_the_api_use() -> None:
    assert [torch_device(name) for name in ("cpu", "cuda0", "cuda11", "mps")] == ["cpu", "cuda:0", "cuda:11", "mps"]
    assert [backend_of(name) for name in ("cpu", "cuda0", "mps")] == ["cpu", "cuda", "mps"]
