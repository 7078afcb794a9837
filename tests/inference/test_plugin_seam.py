"""Where answers are filtered: quick filters where tokens arrive, others in their job's thread, all in order."""

import threading
import time
from typing import Any

import pytest

from engine.messages import ChatTurn, Delta, Failed, Finished, Generate, RequestEvent
from engine.params import SamplingParams
from inference.messages import Job
from inference.plugin_chain import PluginSeam
from inference.running import RunningTable
from plugins_app.chain import Chain
from plugins_app.discovery import BUILT_IN_PACKAGE
from plugins_app.hookspecs import Blocked, Prompt, hookimpl
from tests.plugins_app.plugging import about, link, loaded


class Capitals:
    """Sleeps at "slow", blocks at "block"."""

    info = about("capitals", quick_filters=True)

    @hookimpl
    def token_stream(self) -> Any:
        def filtered(text: str, is_last: bool) -> tuple[str, str]:
            threads.append(threading.current_thread().name)
            if "slow" in text:
                time.sleep(0.05)
            if "block" in text:
                raise Blocked
            return text.upper(), ""

        return filtered


class Unhurried(Capitals):
    info = about("unhurried")


threads: list[str] = []


class Worker:
    """A seam with one request in work; `sent` is what goes on to the web process."""

    def __init__(self, kind: type[Capitals]) -> None:
        self.sent: list[RequestEvent] = []
        chain = Chain([link(loaded(kind, package=BUILT_IN_PACKAGE))])
        self.seam = PluginSeam(_Manager(chain), self)  # type: ignore[arg-type]  # what it needs of them
        request = Generate("1~1", SamplingParams(), text="x", stream=True)
        job = Job("1", "1", "stream_infer", "echo", "web", (request,), submitted_at=0.0, seconds=60.0)
        self._table = RunningTable()
        self.parent, entries = self._table.add(job)
        self.seam.prepare(job, entries)
        self._thread = threading.Thread(target=self.seam.wait, args=(self.parent, 10.0), name="job")
        self._thread.start()

    def put(self, events: tuple[RequestEvent, ...]) -> None:
        self.sent += [event for _, event in self._table.match(events)]

    def tell(self, *events: RequestEvent) -> None:
        self.put(self.seam.passed(events))

    def end(self) -> list[str]:
        """The texts that were sent, after everything has been filtered."""
        while not self.parent.inbox.empty():
            time.sleep(0.001)
        self.parent.count_sent(1)
        self._thread.join(5.0)
        return [event.delta if isinstance(event, Finished) else getattr(event, "text", "!") for event in self.sent]


class _Manager:
    def __init__(self, chain: Chain) -> None:
        self.take = lambda: chain


@pytest.fixture(autouse=True)
def no_calls() -> None:
    threads.clear()


def delta(text: str) -> Delta:
    return Delta("1~1", text, 1)


def finished(text: str) -> Finished:
    return Finished("1~1", text, "", "stop", 1, 3, 0, 0.0, 0.0, 0.0)


def test_pieces_are_filtered_where_they_arrive_and_the_end_in_the_jobs_thread() -> None:
    worker = Worker(Capitals)
    worker.tell(delta("a"))
    worker.tell(delta("b"))
    worker.tell(finished("abc"))
    assert worker.end() == ["A", "B", "C"]
    assert threads == ["MainThread", "MainThread", "job"]


def test_the_order_is_kept_when_much_comes_at_once() -> None:
    for _ in range(50):
        worker = Worker(Capitals)
        worker.tell(delta("a"), delta("b"), finished("abc"))
        assert worker.end() == ["A", "B", "C"]


def test_a_filter_that_is_not_quick_gets_a_thread_for_the_rest() -> None:
    worker = Worker(Capitals)
    worker.tell(delta("slow"), delta("b"))
    worker.tell(delta("c"))
    assert worker.end() == ["SLOW", "B", "C"]
    assert threads == ["MainThread", "job", "job"]


def test_a_filter_that_does_not_claim_to_be_quick_never_runs_where_tokens_arrive() -> None:
    worker = Worker(Unhurried)
    worker.tell(delta("a"))
    worker.tell(finished("ab"))
    assert worker.end() == ["A", "B"]
    assert set(threads) == {"job"}


def test_nothing_is_sent_after_a_piece_that_is_blocked_and_all_before_it() -> None:
    worker = Worker(Capitals)
    worker.tell(delta("a"), delta("block"))
    worker.tell(delta("b"))
    worker.end()
    assert [type(event) for event in worker.sent] == [Delta, Failed]


class Whispers:
    """Makes every word of a prompt small."""

    info = about("whispers")

    @hookimpl
    def prompt(self, prompt: Prompt) -> Prompt:
        assert ("tools", '["TOOL"]') in prompt.parts()
        return prompt.map(str.lower)


def prepared(kind: type[Any], request: Generate) -> tuple[list[Generate], list[RequestEvent]]:
    """What a plugin makes of a request, and what is sent if it is refused."""
    sent: list[RequestEvent] = []

    class Sender:
        def put(self, events: tuple[RequestEvent, ...]) -> None:
            sent.extend(events)

    job = Job("1", "1", "chat_completions", "m", "web", (request,), submitted_at=0.0, seconds=60.0)
    _, entries = RunningTable().add(job)
    chain = Chain([link(loaded(kind, package=BUILT_IN_PACKAGE))])
    seam = PluginSeam(_Manager(chain), Sender())  # type: ignore[arg-type]  # what it needs of them
    return [changed for _, changed in seam.prepare(job, entries)], sent


def test_plugins_see_tools_and_calls_and_leave_their_form() -> None:
    turns = (ChatTurn("user", "HI"), ChatTurn("assistant", "", '["CALL"]'), ChatTurn("tool", "RESULT", "", "call_1"))
    (changed,), _ = prepared(Whispers, Generate("1~1", SamplingParams(), messages=turns, tools='["TOOL"]'))

    assert changed.tools == '["tool"]'
    assert changed.messages == (
        ChatTurn("user", "hi"),
        ChatTurn("assistant", "", '["call"]'),
        ChatTurn("tool", "result", "", "call_1"),
    )


def test_tokens_are_refused_where_a_plugin_reads_prompts_alone() -> None:
    request = Generate("1~1", SamplingParams(), tokens=(1, 2), raw=True)
    refused, sent = prepared(Whispers, request)
    passed, _ = prepared(Capitals, request)

    assert refused == []
    (end,) = sent
    assert isinstance(end, Failed)
    assert (end.code, end.details["field"]) == ("INVALID_INPUT", "text")
    assert passed[0].tokens == (1, 2)
