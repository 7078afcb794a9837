"""The thread that takes commands: a schema that takes long delays its own request alone."""

import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from engine.framing import FrameReceiver, FrameSender
from engine.messages import Abort, Command, EngineConfig, Failed, Generate
from engine.params import SamplingParams
from engine.runtime.echo import EchoRunner, EchoTokenizer
from engine.runtime.loop import AbortRequest, Inbox, Stop
from engine.runtime.receiver import CommandReceiver
from engine.runtime.runner import RequestRefused
from engine.runtime.sequence import Constraint, Sequence

PARAMS = SamplingParams(max_tokens=4)
HELD = Generate("held", PARAMS, text="a b", response_schema="{}")
FREE = Generate("free", PARAMS, text="c d")


class Anything:
    """Lets every token through."""

    def allowed(self) -> bytes:
        return b"\xff" * 8

    def take(self, token: int) -> bool:
        return False


class SlowTokenizer(EchoTokenizer):
    """Waits with a schema until it is told to go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.began = threading.Event()

    def constraint(self, schema: str) -> Constraint:
        self.began.set()
        assert self.go_on.wait(10)
        if schema == "bad":
            raise RequestRefused("INVALID_INPUT", "no schema", field="response_format")
        return Anything()


class Receiving:
    """A receiver with a worker's end of its socket."""

    def __init__(self) -> None:
        self.tokenizer = SlowTokenizer()
        runner = EchoRunner(EngineConfig(model_path="", runner="echo"))
        runner.tokenizer = self.tokenizer
        self.inbox: Inbox = queue.SimpleQueue()
        self.ours, theirs = socket.socketpair()
        self.theirs = theirs
        commands: FrameReceiver[Command] = FrameReceiver(theirs, Command)
        CommandReceiver(commands, runner, self.inbox).start()
        self.send = FrameSender(self.ours).send

    def close(self) -> None:
        self.tokenizer.go_on.set()
        self.ours.shutdown(socket.SHUT_RDWR)
        while not isinstance(self.inbox.get(timeout=10), Stop):
            pass
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def receiving() -> Iterator[Receiving]:
    made = Receiving()
    yield made
    made.close()


def test_others_pass_a_request_whose_schema_is_compiled(receiving: Receiving) -> None:
    receiving.send(HELD)
    receiving.send(FREE)
    first = receiving.inbox.get(timeout=10)
    receiving.tokenizer.go_on.set()
    second = receiving.inbox.get(timeout=10)

    assert isinstance(first, Sequence)
    assert (first.request_id, first.constraint) == ("free", None)
    assert isinstance(second, Sequence)
    assert second.request_id == "held"
    assert isinstance(second.constraint, Anything)


def test_a_request_that_is_aborted_while_its_schema_is_compiled_ends(receiving: Receiving) -> None:
    receiving.send(HELD)
    receiving.tokenizer.began.wait(10)
    receiving.send(Abort("held"))
    receiving.send(FREE)
    assert isinstance(receiving.inbox.get(timeout=10), Sequence)  # so the abort has been read
    receiving.tokenizer.go_on.set()

    assert isinstance(receiving.inbox.get(timeout=10), Sequence)
    assert receiving.inbox.get(timeout=10) == AbortRequest("held")


def test_a_schema_that_is_refused_fails_its_request(receiving: Receiving) -> None:
    receiving.tokenizer.go_on.set()
    receiving.send(Generate("bad", PARAMS, text="x", response_schema="bad"))
    end = receiving.inbox.get(timeout=10)

    assert isinstance(end, Failed)
    assert (end.code, end.details["field"]) == ("INVALID_INPUT", "response_format")
