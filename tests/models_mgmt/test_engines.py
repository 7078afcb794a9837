"""The worker's engine pool, over real echo engines."""

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import psutil
import pytest

from common.errors import ApiError, BackendUnavailable, InsufficientMemory, ModelLoadFailed
from engine.client import EngineClient, EngineGone, EngineStartError
from engine.messages import Accepted, EngineConfig, Failed, Finished, Generate, Ready, RequestEvent
from engine.params import SamplingParams
from models_mgmt.engine_config import backend_of, torch_device
from models_mgmt.engine_pool import EnginePool, Say
from models_mgmt.engines import EngineClosed


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


class Owner:
    """Says what is loaded, in the place of a worker's host, and keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self.errors: dict[str, ApiError] = {}
        self.prepared = 0
        self.delay = 0.01
        self.hold: threading.Event | None = None

    def prepare(self, model_id: str, say: Say) -> EngineConfig:
        self.prepared += 1
        if self.hold is not None:
            say(0.5, "download")
            while not self.hold.wait(0.02):
                say(0.5, "download")
        if model_id in self.errors:
            raise self.errors[model_id]
        if model_id == "broken":
            return EngineConfig(model_path="/nowhere")
        return EngineConfig(model_path="", runner="echo", echo_delay=self.delay)

    def progressed(self, model_id: str, progress: float, stage: str) -> None:
        self.heard.append(("progressed", stage))

    def loaded(self, model_id: str, ready: Ready, seconds: float) -> None:
        self.heard.append(("loaded", model_id))

    def failed(self, model_id: str, error: ApiError) -> None:
        self.heard.append(("failed", error.code))

    def lost(self, model_id: str, error: ApiError) -> None:
        self.heard.append(("lost", model_id))


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def pool(seen: Seen, owner: Owner) -> Iterator[EnginePool]:
    pool = EnginePool(owner, on_events=seen.put)
    pool.start()
    yield pool
    pool.stop()


def generate(request_id: str, tokens: int = 2, text: str = "a b") -> Generate:
    return Generate(request_id, SamplingParams(max_tokens=tokens), text=text)


def wait_for(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def in_thread(work: Callable[[], Any]) -> "queue.Queue[Any]":
    """Run something beside the test; its result, or what it raised, comes through the queue."""
    outcome: queue.Queue[Any] = queue.Queue()

    def run() -> None:
        try:
            outcome.put(work())
        except ApiError as error:
            outcome.put(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def test_it_loads_on_demand_and_reports(pool: EnginePool, seen: Seen, owner: Owner) -> None:
    assert pool.reports() == ()

    pool.get("echo").submit(generate("r1"))

    end = seen.end_of("r1")
    assert isinstance(end, Finished)
    assert end.text == "a b"
    (report,) = pool.reports()
    assert (report.model_id, report.state, report.in_flight, report.progress) == ("echo", "loaded", 0, 1.0)
    assert report.ready is not None
    assert report.pid
    assert owner.heard[-1] == ("loaded", "echo")


def test_loading_twice_at_once_loads_once(pool: EnginePool, owner: Owner) -> None:
    outcomes = [in_thread(lambda: pool.get("echo")) for _ in range(8)]
    engines = [outcome.get(timeout=20) for outcome in outcomes]

    assert len(set(map(id, engines))) == 1
    assert owner.prepared == 1


def test_a_dead_engine_fails_what_it_ran_and_the_next_get_starts_another(
    pool: EnginePool, seen: Seen, owner: Owner
) -> None:
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
    wait_for(lambda: ("lost", "echo") in owner.heard)


@pytest.mark.parametrize("young_seconds", [0.0, 60.0])
def test_a_dead_engine_is_restarted_before_anybody_asks_also_one_that_died_young(
    pool: EnginePool, monkeypatch: pytest.MonkeyPatch, young_seconds: float
) -> None:
    monkeypatch.setattr("models_mgmt.engine_pool._YOUNG_SECONDS", young_seconds)
    first = pool.get("echo").report().pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: pool.reports()[0].state == "loaded" and pool.reports()[0].pid not in {first, None})


def test_an_engine_that_keeps_dying_young_is_restarted_after_growing_pauses(
    pool: EnginePool, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models_mgmt.engine_pool._FIRST_PAUSE_SECONDS", 0.2)
    pauses = []
    for _ in range(3):
        pid = pool.get("echo").report().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: pool.reports()[0].state == "loading")
        began = time.monotonic()
        loads = owner.prepared
        wait_for(lambda loads=loads: owner.prepared > loads)
        pauses.append(time.monotonic() - began)
        wait_for(lambda: pool.reports()[0].state == "loaded")
    assert pauses[0] < pauses[1] < pauses[2]


def test_an_engine_that_hangs_is_killed_and_its_requests_fail(
    pool: EnginePool, seen: Seen, owner: Owner, settings: Any
) -> None:
    settings.ENGINE_STALL_SECONDS = 1.0
    engine = pool.get("echo")
    engine.submit(generate("r1", 5000))
    seen.acceptance_of("r1")
    pid = engine.report().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)

    end = seen.end_of("r1")
    assert isinstance(end, Failed)
    assert end.code == "INFERENCE_FAILED"
    wait_for(lambda: ("lost", "echo") in owner.heard)
    assert isinstance(pool.get("echo"), type(engine))


def test_an_engine_that_only_takes_its_time_is_not_killed(
    pool: EnginePool, seen: Seen, owner: Owner, settings: Any
) -> None:
    settings.ENGINE_STALL_SECONDS = 2.5
    owner.delay = 0.05
    pool.get("echo").submit(Generate("r1", SamplingParams(max_tokens=100), text="a", stream=False))

    assert isinstance(seen.end_of("r1"), Finished)


def test_an_idle_engine_is_never_taken_for_one_that_hangs(pool: EnginePool, settings: Any) -> None:
    settings.ENGINE_STALL_SECONDS = 0.1
    pid = pool.get("echo").report().pid
    time.sleep(1.5)
    assert pool.get("echo").report().pid == pid


def test_a_failed_load_names_its_code_and_leaves_the_pool_working(pool: EnginePool, owner: Owner) -> None:
    with pytest.raises(ModelLoadFailed):
        pool.get("broken")
    owner.errors["full"] = InsufficientMemory(details={"needed_bytes": 7})
    with pytest.raises(InsufficientMemory) as caught:
        pool.get("full")

    assert caught.value.details == {"needed_bytes": 7}
    assert [event for event in owner.heard if event[0] == "failed"] == [
        ("failed", "MODEL_LOAD_FAILED"),
        ("failed", "INSUFFICIENT_MEMORY"),
    ]
    assert pool.get("echo").state == "loaded"


def test_a_broken_model_is_not_loaded_again_for_every_request(pool: EnginePool, owner: Owner, settings: Any) -> None:
    owner.errors["echo"] = ModelLoadFailed("It is broken.")
    for _ in range(3):
        with pytest.raises(ModelLoadFailed, match="It is broken"):
            pool.get("echo")
    assert owner.prepared == 1
    assert pool.reports()[0].error == "It is broken."

    del owner.errors["echo"]
    assert pool.get("echo", retry=True).state == "loaded"


def test_a_broken_model_is_tried_again_after_a_while(pool: EnginePool, owner: Owner, settings: Any) -> None:
    settings.LOAD_RETRY_SECONDS = 0.05
    owner.errors["echo"] = ModelLoadFailed("It is broken.")
    with pytest.raises(ModelLoadFailed):
        pool.get("echo")
    assert pool.reports()[0].is_missed
    del owner.errors["echo"]
    wait_for(lambda: not pool.reports()[0].is_missed)
    assert pool.get("echo").state == "loaded"


def test_what_may_pass_by_itself_is_tried_again_at_once(pool: EnginePool, owner: Owner) -> None:
    owner.errors["echo"] = InsufficientMemory()
    with pytest.raises(InsufficientMemory):
        pool.get("echo")
    del owner.errors["echo"]
    assert pool.get("echo").state == "loaded"


def test_an_engine_killed_while_it_loads_fails_the_load(pool: EnginePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSTARTUP", "")
    outcome = in_thread(lambda: pool.get("echo"))
    wait_for(lambda: bool(pool.reports()) and pool.reports()[0].pid is not None)
    pid = pool.reports()[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    assert isinstance(outcome.get(timeout=10), ModelLoadFailed)
    assert pool.get("echo", retry=True).state == "loaded"


def test_a_split_model_counts_on_each_of_its_devices(pool: EnginePool, monkeypatch: pytest.MonkeyPatch) -> None:
    start = EngineClient.start

    def split(client: EngineClient, timeout: float) -> Ready:
        sizes = {"cuda:0": 5, "cuda:1": 7}
        return msgspec.structs.replace(start(client, timeout), memory_bytes=12, device_bytes=sizes)

    monkeypatch.setattr(EngineClient, "start", split)
    pool.get("echo")

    assert [pool.held_bytes(device) for device in ("cuda0", "cuda1", "cuda2")] == [5, 7, 0]
    assert pool.reports()[0].device_bytes == {"cuda0": 5, "cuda1": 7}


def test_an_engine_that_finds_too_little_memory_tells_how_much_there_is(
    pool: EnginePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(client: EngineClient, timeout: float) -> Ready:
        raise EngineStartError("INSUFFICIENT_MEMORY", "Too little.", needed_bytes=2048, free_bytes=1024)

    monkeypatch.setattr(EngineClient, "start", start)
    with pytest.raises(InsufficientMemory) as caught:
        pool.get("echo")
    assert caught.value.details == {"needed": "2KB", "needed_bytes": 2048, "free": "1KB", "free_bytes": 1024}


def test_a_load_tells_what_its_process_has_taken_by_now(pool: EnginePool) -> None:
    outcome = in_thread(lambda: pool.get("echo"))
    wait_for(lambda: bool(pool.reports()) and pool.reports()[0].pid is not None)
    taken = 0
    while (report := pool.reports()[0]).state == "loading":
        taken = max(taken, report.device_bytes["cpu"])
    assert taken > 1024**2
    assert outcome.get(timeout=10).state == "loaded"


def test_an_unload_ends_the_process_and_measures_what_that_freed(pool: EnginePool) -> None:
    pid = pool.get("echo").report().pid
    assert pid is not None

    freed = pool.unload("echo")

    assert freed is not None
    assert freed > 5 * 1024**2
    assert not psutil.pid_exists(pid)
    assert pool.reports() == ()
    assert pool.unload("echo") is None


def test_an_unload_lets_what_runs_end(pool: EnginePool, seen: Seen) -> None:
    engine = pool.get("echo")
    engine.submit(generate("r1", 50))
    seen.acceptance_of("r1")

    outcome = in_thread(lambda: pool.unload("echo"))
    wait_for(lambda: engine.state == "unloading")
    with pytest.raises(EngineClosed):
        engine.submit(generate("r2"))

    end = seen.end_of("r1")
    assert isinstance(end, Finished)
    assert end.completion_tokens == 50
    assert outcome.get(timeout=10) > 0


def test_a_forced_unload_fails_what_runs_also_under_an_unload_that_waits(pool: EnginePool, seen: Seen) -> None:
    engine = pool.get("echo")
    engine.submit(generate("r1", 5000))
    seen.acceptance_of("r1")
    patient = in_thread(lambda: pool.unload("echo"))
    wait_for(lambda: engine.state == "unloading")

    pool.unload("echo", force=True)

    end = seen.end_of("r1")
    assert isinstance(end, Failed)
    assert "unloaded" in end.message
    assert patient.get(timeout=10) > 0


def test_a_request_during_an_unload_gets_the_engine_after_it(pool: EnginePool, seen: Seen) -> None:
    engine = pool.get("echo")
    engine.submit(generate("r1", 50))
    seen.acceptance_of("r1")
    in_thread(lambda: pool.unload("echo"))
    wait_for(lambda: engine.state == "unloading")

    another = pool.get("echo")

    assert another is not engine
    another.submit(generate("r2"))
    assert isinstance(seen.end_of("r2"), Finished)


def test_an_idle_unload_spares_what_is_in_use_or_was_lately(pool: EnginePool, seen: Seen) -> None:
    engine = pool.get("echo")
    engine.submit(generate("r1", 5000))
    seen.acceptance_of("r1")
    assert pool.unload("echo", only_if_idle_for=0.0) is None
    engine.abort("r1")
    seen.end_of("r1")
    assert pool.unload("echo", only_if_idle_for=60.0) is None
    assert pool.get("echo") is engine
    assert pool.unload("echo", only_if_idle_for=0.0) is not None


def test_an_unload_gives_up_a_load_that_goes_on(pool: EnginePool, owner: Owner) -> None:
    owner.hold = threading.Event()
    outcome = in_thread(lambda: pool.get("echo"))
    wait_for(lambda: bool(pool.reports()))
    report = pool.reports()[0]
    assert (report.state, report.stage, report.progress) == ("loading", "download", 0.25)

    assert pool.unload("echo") is None

    assert isinstance(outcome.get(timeout=10), BackendUnavailable)
    owner.hold = None
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

    with pytest.raises(ApiError) as caught:
        pool.get("echo")

    assert caught.value.code in {"BACKEND_UNAVAILABLE", "INFERENCE_FAILED"}


def test_fifty_loads_and_unloads_leave_nothing_behind(pool: EnginePool, owner: Owner) -> None:
    this = psutil.Process()

    def cycle(number: int) -> None:
        ids = [f"m{number}-{index}" for index in range(2)] + ["echo"]
        outcomes = [in_thread(lambda model_id=model_id: pool.get(model_id)) for model_id in ids]
        for outcome in outcomes:
            assert outcome.get(timeout=30).state == "loaded"
        for model_id in ids:
            assert pool.unload(model_id)

    others = set(this.children())
    cycle(0)
    before = this.memory_full_info().uss, this.num_fds(), threading.active_count()
    for number in range(1, 18):  # three each, so 51
        cycle(number)
    wait_for(lambda: threading.active_count() <= before[2])
    assert set(this.children()) == others
    assert this.num_fds() <= before[1]
    assert this.memory_full_info().uss < before[0] + 4 * 1024**2


def test_devices_have_the_names_that_torch_and_the_api_use() -> None:
    assert [torch_device(name) for name in ("cpu", "cuda0", "cuda11", "mps")] == ["cpu", "cuda:0", "cuda:11", "mps"]
    assert [backend_of(name) for name in ("cpu", "cuda0", "mps")] == ["cpu", "cuda", "mps"]
