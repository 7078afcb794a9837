"""Calls that may never return."""

import contextvars
import threading
from collections.abc import Iterator

import pytest

from plugins_app.hands import Hands, Overdue

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="")


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Lets go what hangs; at the latest when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_what_is_called_returns_raises_and_knows_whose_work_it_does(hands: Hands) -> None:
    NAME.set("mine")
    assert hands.call(NAME.get, seconds=5) == "mine"
    assert hands.call(threading.get_ident, seconds=5) != threading.get_ident()
    for error in (ValueError("wrong"), SystemExit(3), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised:
            hands.call(lambda error=error: (_ for _ in ()).throw(error), seconds=5)
        assert raised.value is error


def test_threads_are_used_again(hands: Hands) -> None:
    threads = {hands.call(threading.current_thread, seconds=5) for _ in range(200)}
    assert len(threads) < 20


def test_what_does_not_return_is_left_to_its_thread(hands: Hands, released: threading.Event) -> None:
    told: list[str] = []
    late = threading.Event()
    with pytest.raises(Overdue, match=r"did not return within 0\.05 s"):
        hands.call(released.wait, seconds=0.05, left=lambda: told.append("left"), late=late.set)
    assert told == ["left"]
    assert not late.is_set()
    assert hands.call(lambda: "others go on", seconds=5) == "others go on"
    released.set()
    assert late.wait(5)


def test_who_returns_in_time_is_not_told_of(hands: Hands) -> None:
    def wrong() -> None:
        raise AssertionError

    assert hands.call(lambda: 1, seconds=5, left=wrong, late=wrong) == 1
