"""Who runs when."""

import pytest

from engine.messages import BACKGROUND_PRIORITY, Delta, EngineConfig
from engine.runtime.detokenizer import Detokenizer
from engine.runtime.loop import MAX_FAILED_STEPS
from tests.engine.conftest import Harness


def _echo(**config: object) -> Harness:
    return Harness(EngineConfig(model_path="", runner="echo", **config))  # type: ignore[arg-type]


def _order_of_ends(harness: Harness) -> list[str]:
    return [event.request_id for event in harness.events if type(event).__name__ == "Finished"]


def _deltas(harness: Harness, request_id: str) -> list[Delta]:
    return [event for event in harness.events if isinstance(event, Delta) and event.request_id == request_id]


def test_a_new_request_joins_at_the_next_step() -> None:
    harness = _echo()
    harness.submit("one two three", max_tokens=10)
    harness.step(3)
    second = harness.submit("four", max_tokens=2)
    harness.step(2)
    assert harness.finished(second).finish_reason == "length"
    assert harness.steps[-1].running == 1


def test_a_long_prompt_is_run_in_chunks_and_never_holds_up_a_running_one() -> None:
    harness = _echo(prefill_chunk=64, mixed_chunk=16)
    short = harness.submit("hello", max_tokens=40)
    harness.step()
    harness.submit("word " * 200, max_tokens=1)
    before = len(harness.steps)
    harness.step(10)
    tokens = [
        sum(1 for event in step.events if event.request_id == short and type(event).__name__ == "Delta")
        for step in harness.steps[before:]
    ]
    assert tokens == [1] * 10


def test_no_more_than_max_sequences_run_and_the_rest_wait() -> None:
    harness = _echo(max_sequences=3)
    for _ in range(7):
        harness.submit("hello", max_tokens=5)
    harness.step()
    assert (harness.steps[-1].running, harness.steps[-1].waiting) == (3, 4)
    harness.run()
    assert len(_order_of_ends(harness)) == 7


def test_the_background_rests_while_others_run_but_for_every_fifth_step() -> None:
    harness = _echo()
    background = harness.submit("b", max_tokens=100, priority=BACKGROUND_PRIORITY)
    harness.step(10)
    made = len(_deltas(harness, background))
    other = harness.submit("o", max_tokens=20)
    harness.step(20)
    assert harness.finished(other).completion_tokens == 20
    assert len(_deltas(harness, background)) - made <= 5
    harness.run()
    assert harness.finished(background).completion_tokens == 100


def test_the_background_gives_its_place_to_whoever_would_find_none() -> None:
    harness = _echo(max_sequences=2)
    background = [harness.submit("b", max_tokens=60, priority=BACKGROUND_PRIORITY) for _ in range(4)]
    harness.step(3)
    others = [harness.submit("o", max_tokens=10) for _ in range(2)]
    harness.step(11)
    assert set(_order_of_ends(harness)) == set(others)
    harness.run()
    assert [harness.finished(one).completion_tokens for one in background] == [60] * 4


def test_the_background_waits_until_nobody_else_does() -> None:
    harness = _echo(max_sequences=1)
    background = harness.submit("b", max_tokens=1, priority=BACKGROUND_PRIORITY)
    others = [harness.submit("o", max_tokens=1, priority=number % 2) for number in range(12)]
    harness.run()
    assert _order_of_ends(harness)[-1] == background
    assert set(_order_of_ends(harness)[:-1]) == set(others)


def test_premium_goes_first_and_standard_gets_every_fifth_turn() -> None:
    harness = _echo(max_sequences=1)
    standard = [harness.submit("s", max_tokens=1) for _ in range(4)]
    premium = [harness.submit("p", max_tokens=1, priority=9) for _ in range(12)]
    harness.run()
    order = _order_of_ends(harness)
    assert order[:4] == premium[:4]
    assert order.index(standard[0]) == 4
    assert order.index(standard[1]) == 9


def test_an_aborted_request_ends_at_once_running_or_waiting() -> None:
    harness = _echo(max_sequences=1)
    running = harness.submit("hello world", max_tokens=100)
    waiting = harness.submit("hello", max_tokens=100)
    harness.step(3)
    harness.abort(running)
    harness.abort(waiting)
    harness.step()
    assert harness.finished(running).finish_reason == "cancelled"
    assert harness.finished(running).completion_tokens == 3
    assert harness.finished(waiting).finish_reason == "cancelled"
    assert (harness.steps[-1].running, harness.steps[-1].waiting) == (0, 0)
    assert harness.loop.scheduler.pool.used_share == 0


def test_aborting_an_unknown_or_ended_request_is_nothing() -> None:
    harness = _echo()
    done = harness.submit("hi", max_tokens=1)
    harness.run()
    harness.abort(done)
    harness.abort("never-seen")
    other = harness.submit("hi", max_tokens=1)
    harness.run()
    assert harness.finished(done)
    assert harness.finished(other)


def test_a_failing_request_fails_alone() -> None:
    harness = _echo()
    good = harness.submit("good words", max_tokens=6)
    bad = harness.submit("bad [[fail]]", max_tokens=6)
    harness.run()
    assert type(harness.end(bad)).__name__ == "Failed"
    assert harness.finished(good).completion_tokens == 6


def test_a_step_that_raises_fails_its_requests_and_the_engine_lives_on() -> None:
    harness = _echo()
    broken = harness.submit("one", max_tokens=3)
    step = harness.runner.step

    def fail_once(_chunks: object) -> list[None]:
        harness.runner.step = step  # type: ignore[method-assign]
        raise RuntimeError("out of memory")

    harness.runner.step = fail_once  # type: ignore[method-assign,assignment]
    harness.run()
    assert type(harness.end(broken)).__name__ == "Failed"
    after = harness.submit("two", max_tokens=3)
    harness.run()
    assert harness.finished(after).completion_tokens == 3
    assert harness.loop.scheduler.pool.used_share == 0


def test_an_engine_whose_every_step_fails_ends_itself() -> None:
    harness = _echo()

    def fail(_chunks: object) -> list[None]:
        raise RuntimeError("device-side assert")

    harness.runner.step = fail  # type: ignore[method-assign,assignment]
    for _ in range(MAX_FAILED_STEPS - 1):
        harness.submit("one")
        harness.run()
    harness.submit("two")
    with pytest.raises(RuntimeError):
        harness.run()


def test_a_token_that_cannot_be_decoded_fails_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = _echo()
    bad, good = harness.submit("bad", max_tokens=4), harness.submit("good", max_tokens=4)
    add = Detokenizer.add

    def fail_for_bad(self: Detokenizer, token: int) -> str:
        text = add(self, token)
        if "bad" in text:
            raise ValueError("no such token")
        return text

    monkeypatch.setattr(Detokenizer, "add", fail_for_bad)
    harness.run()
    assert type(harness.end(bad)).__name__ == "Failed"
    assert harness.finished(good).completion_tokens == 4


def test_times_add_up() -> None:
    harness = _echo(echo_delay=0.01)
    name = harness.submit("hello", max_tokens=5)
    harness.run()
    end = harness.finished(name)
    assert end.prefill_time >= 0.01
    assert end.decode_time >= 0.04
    assert end.time_to_first_token == end.queue_time + end.prefill_time


def test_a_request_nobody_streams_sends_no_deltas() -> None:
    harness = _echo()
    name = harness.submit("hello world", max_tokens=6, stream=False)
    harness.run()
    assert [type(event).__name__ for event in harness.events] == ["Accepted", "Finished"]
    assert harness.finished(name).text == "hello worldhello worldhello world"
