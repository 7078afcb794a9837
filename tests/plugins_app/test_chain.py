"""Plugins one after the other, and what happens when one fails."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from plugins_app.breaker import Breaker
from plugins_app.chain import Chain, Failure, PluginFailed, Run
from plugins_app.hookspecs import Blocked, Outcome, Prompt, Refused, Request, hookimpl
from plugins_app.loaded import LoadError
from tests.plugins_app.plugging import REQUEST, about, link, loaded


def kind(plugin_id: str = "sample", **hooks: Any) -> Any:
    """A plugin's class with these functions as its hooks."""
    return type("Sample", (), {"info": about(plugin_id), **{name: hookimpl(hook) for name, hook in hooks.items()}})


def adds(mark: str) -> Any:
    def prompt(self: Any, prompt: Prompt) -> Prompt:
        return prompt.map(lambda text: text + mark)

    return kind(mark, prompt=prompt, token_stream=lambda self: lambda text, is_last: (text + mark * is_last, ""))


def crashes(self: Any) -> Any:
    raise ValueError("the words of a prompt")


def begun(*links: Any, prompt: str = "x") -> Run:
    run = Run(Chain(links), REQUEST, Prompt(text=prompt))
    run.begin()
    return run


def test_plugins_run_in_the_order_of_the_chain_both_ways() -> None:
    run = begun(link(loaded(adds("1"))), link(loaded(adds("2"))))
    assert run.prompt.text == "x12"
    output = run.output()
    assert output is not None
    assert output.feed("y") + output.finish("") == output.text == "y12"


def test_a_plugin_gets_only_the_arguments_it_asks_for() -> None:
    seen: list[Any] = []
    run = begun(link(loaded(kind(request_finished=lambda self, outcome: seen.append(outcome)))))
    outcome = Outcome("completed", text="y")
    run.finished(outcome)
    assert seen == [outcome]


def test_parameters_can_be_changed_and_max_tokens_only_lowered() -> None:
    from dataclasses import replace

    def request_in(self: Any, request: Request) -> Request:
        return replace(request, request_id="other", model="other", max_tokens=500, temperature=0.0)

    changed = begun(link(loaded(kind(request_in=request_in)))).request
    assert (changed.request_id, changed.model, changed.max_tokens) == ("req_1", "llama2-7b", 100)
    assert changed.temperature == 0.0


def test_a_refusal_names_its_plugin() -> None:
    def prompt(self: Any) -> None:
        raise Refused("No.", field="text")

    with pytest.raises(Refused) as refused:
        begun(link(loaded(kind(prompt=prompt))))
    assert refused.value.details == {"field": "text", "plugin": "sample"}


def test_final_text_holds_a_stream_back_to_its_end() -> None:
    run = begun(link(loaded(kind(final_text=lambda self, text: text[::-1]))))
    output = run.output()
    assert output is not None
    assert [output.feed("ab"), output.feed("c"), output.finish("d")] == ["", "", "dcba"]


def test_a_failing_plugin_that_fails_open_is_passed_by_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[Failure] = []
    run = begun(link(loaded(kind(prompt=crashes)), failures=failures), link(loaded(adds("1"))))
    assert run.prompt.text == "x1"
    assert [failure.plugin_id for failure in failures] == ["sample"]
    assert failures[0].error.startswith("ValueError at test_chain.py:")
    assert "words of a prompt" not in caplog.text + failures[0].error


def test_a_failing_plugin_that_fails_closed_fails_the_request() -> None:
    with pytest.raises(PluginFailed):
        begun(link(loaded(kind(prompt=crashes)), fail_closed=True))


def test_a_filter_that_fails_lets_go_of_what_it_held() -> None:
    def token_stream(self: Any) -> Any:
        def hold(text: str, is_last: bool) -> tuple[str, str]:
            if "!" in text:
                raise RuntimeError
            return "", text

        return hold

    run = begun(link(loaded(kind(token_stream=token_stream))))
    output = run.output()
    assert output is not None
    assert [output.feed("a"), output.feed("b"), output.feed("c!"), output.feed("d"), output.finish("e")] == [
        "", "", "abc!", "d", "e",
    ]  # fmt: skip


@pytest.mark.parametrize("result", ["text", ("a",), (1, ""), None])
def test_a_filter_that_returns_nonsense_has_failed(result: Any) -> None:
    run = begun(link(loaded(kind(token_stream=lambda self: lambda text, is_last: result)), fail_closed=True))
    output = run.output()
    assert output is not None
    with pytest.raises(PluginFailed):
        output.feed("a")


def test_a_hook_that_returns_nonsense_has_failed() -> None:
    failures: list[Failure] = []
    run = begun(link(loaded(kind(prompt=lambda self: "a text")), failures=failures))
    assert run.prompt.text == "x"
    assert len(failures) == 1


def test_a_blocked_answer_is_no_failure() -> None:
    def final_text(self: Any) -> None:
        raise Blocked

    failures: list[Failure] = []
    run = begun(link(loaded(kind(final_text=final_text)), failures=failures))
    output = run.output()
    assert output is not None
    with pytest.raises(Blocked):
        output.finish("x")
    assert failures == []


def test_time_is_taken_and_slowness_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def prompt(self: Any) -> None:
        time.sleep(0.02)

    with caplog.at_level(logging.WARNING):
        run = begun(link(loaded(kind("response_filter", prompt=prompt)), slow_seconds=0.01))
    timing = run.timings()["response_filter"]
    assert timing["seconds"] >= 0.02
    assert (timing["calls"], timing["failures"]) == (1, 0)
    (warning,) = [record for record in caplog.records if record.name == "plugin_manager"]
    assert warning.getMessage() == "Plugin response_filter took longer than expected"
    assert warning.metadata["threshold"] == 0.01  # type: ignore[attr-defined]
    assert warning.metadata["execution_time"] >= 0.02  # type: ignore[attr-defined]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_breaker_opens_after_failures_in_a_row_and_one_request_tries_again() -> None:
    clock = Clock()
    breaker = Breaker(max_failures=3, retry_seconds=60, clock=clock)
    assert [breaker.failed(), breaker.failed()] == [False, False]
    breaker.succeeded()
    assert [breaker.failed(), breaker.failed(), breaker.failed()] == [False, False, True]
    assert not breaker.admits()
    clock.now += 60
    assert [breaker.admits(), breaker.admits()] == [True, False]
    assert breaker.failed()
    assert not breaker.admits()
    clock.now += 60
    assert breaker.admits()
    assert breaker.succeeded()
    assert [breaker.admits(), breaker.admits()] == [True, True]


def test_a_breaker_that_is_never_to_be_tried_again_stays_open() -> None:
    clock = Clock()
    breaker = Breaker(max_failures=1, retry_seconds=0, clock=clock)
    breaker.failed()
    clock.now += 1e9
    assert not breaker.admits()


def test_a_request_from_before_does_not_close_a_breaker() -> None:
    breaker = Breaker(max_failures=1, retry_seconds=60, clock=Clock())
    breaker.failed()
    assert not breaker.succeeded()
    assert breaker.is_open


def test_calls_that_hang_open_the_breaker_whatever_goes_well_and_nobody_joins_them() -> None:
    clock = Clock()
    breaker = Breaker(max_failures=2, retry_seconds=60, clock=clock)
    assert [breaker.failed(), breaker.hung()] == [False, False]
    breaker.succeeded()
    assert [breaker.failed(), breaker.hung()] == [False, True]
    clock.now += 3600
    assert not breaker.admits()
    breaker.returned()
    assert not breaker.admits()
    breaker.returned()
    assert breaker.admits()
    assert breaker.succeeded()


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Lets go what hangs; at the latest when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def hanging(where: str, event: threading.Event) -> Any:
    """A plugin that does not return from one of its hooks, or from its filter, before the event."""

    def hangs(self: Any) -> None:
        event.wait()

    def filters(self: Any) -> Any:
        return lambda text, is_last: (event.wait() and text, "")

    return kind("stuck", token_stream=filters) if where == "its filter" else kind("stuck", **{where: hangs})


@pytest.mark.parametrize("where", ["request_in", "prompt", "token_stream", "its filter", "final_text"])
@pytest.mark.parametrize("fail_closed", [False, True])
def test_a_plugin_that_hangs_has_failed(where: str, fail_closed: bool, released: threading.Event) -> None:
    failures: list[Failure] = []
    stuck = link(loaded(hanging(where, released)), fail_closed=fail_closed, timeout_seconds=0.05, failures=failures)

    def answer() -> str:
        output = begun(stuck, link(loaded(adds("!")))).output()
        assert output is not None
        return output.feed("one ") + output.feed("two") + output.finish("")

    if fail_closed:
        with pytest.raises(PluginFailed):
            answer()
    else:
        assert answer() == "one two!"
    (failure,) = failures
    named = "its filter" if where == "final_text" else where
    assert failure.error == f"it did not return within 0.05 s, in {named}"


def test_hanging_calls_take_so_many_threads_and_no_more(released: threading.Event) -> None:
    breaker = Breaker(max_failures=3, retry_seconds=0.001)
    stuck = link(loaded(hanging("prompt", released)), timeout_seconds=0.02, breaker=breaker)
    before = threading.active_count()
    for _ in range(20):
        time.sleep(0.002)  # time to try again
        assert begun(stuck).prompt.text == "x"
    assert threading.active_count() <= before + 4
    released.set()
    tried: dict[str, Any] = {}
    for _ in range(500):
        if tried := begun(stuck).timings():
            break
        time.sleep(0.01)
    assert tried["stuck"]["failures"] == 0


@pytest.mark.parametrize("fail_closed", [False, True])
def test_a_plugin_whose_breaker_is_open_is_not_called(fail_closed: bool) -> None:
    calls: list[int] = []
    failures: list[Failure] = []

    def prompt(self: Any) -> None:
        calls.append(1)
        raise ValueError

    plugin = loaded(kind(prompt=prompt))
    breaker = Breaker(max_failures=2, retry_seconds=60)
    for _ in range(5):
        try:
            run = begun(link(plugin, breaker=breaker, fail_closed=fail_closed, failures=failures))
        except PluginFailed:
            assert fail_closed  # then requests fail, as long as what they rely on is away
        else:
            assert run.prompt.text == "x"
    assert len(calls) == 2
    assert [failure.circuit for failure in failures] == ["", "open"]


def test_a_plugin_that_cannot_be_loaded_and_must_not_be_left_out_fails_requests() -> None:
    with pytest.raises(PluginFailed):
        Run(Chain([], unavailable=["pii_redactor"]), REQUEST, Prompt(text="x"))


@pytest.mark.parametrize(
    "hooks",
    [
        {"no_such_hook": lambda self: None},
        {"prompt": lambda self, no_such_argument: None},
        {"setup": lambda self: 1 / 0},
        {"setup": lambda self: sys.exit(3)},
    ],
)
def test_a_plugin_that_does_not_keep_to_the_hooks_is_not_loaded(hooks: dict[str, Any]) -> None:
    with pytest.raises(LoadError):
        loaded(kind(**hooks))


def test_a_hook_that_is_a_coroutine_is_not_loaded() -> None:
    async def prompt(self: Any) -> None: ...

    with pytest.raises(LoadError, match="coroutine"):
        loaded(kind(prompt=prompt))
