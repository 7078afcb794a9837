"""A start waits as long as the server says "not yet", and ends with a sentence when it says "no"."""

import socket
import threading
from collections.abc import Callable

import pytest

from llama_gpu_site.supervisor.failure import StartError
from llama_gpu_site.supervisor.provision import Credentials
from llama_gpu_site.supervisor.readiness import Answer, attempt_generation, wait_for_generation
from llama_gpu_site.supervisor.welcome import display_url, reachable_url, welcome

NOTHING = Answer(0, {})
BUSY = Answer(503, {"success": False, "error": {"code": "BACKEND_UNAVAILABLE", "message": "No worker."}})
BROKEN = Answer(500, {"success": False, "error": {"code": "MODEL_LOAD_FAILED", "message": "The file is broken."}})
DONE = Answer(200, {"success": True, "result": {"generated_text": "Hello.", "backend": "cpu"}})


def wait(answers: list[Answer]) -> Answer | None:
    attempt: Callable[[], Answer] = iter(answers).__next__
    return wait_for_generation(attempt, say=print, given_up=threading.Event(), pause=0.001)


def test_it_waits_until_a_generation_works() -> None:
    assert wait([NOTHING, NOTHING, BUSY, BUSY, BUSY, BUSY, DONE]) == DONE


def test_a_failure_that_stays_ends_the_start_with_its_reason() -> None:
    with pytest.raises(StartError, match=r"The first generation failed: The file is broken\."):
        wait([BUSY, BROKEN, BROKEN, BROKEN])


def test_a_failure_that_passes_does_not() -> None:
    assert wait([BROKEN, BROKEN, BUSY, BROKEN, BROKEN, DONE]) == DONE


def test_it_gives_up_when_told() -> None:
    given_up = threading.Event()
    given_up.set()
    assert wait_for_generation(lambda: NOTHING, say=print, given_up=given_up) is None


def test_a_server_that_is_not_there_is_no_answer() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert attempt_generation(f"http://127.0.0.1:{nobody.getsockname()[1]}", "token") == NOTHING


@pytest.mark.parametrize(
    ("host", "reachable", "display"),
    [
        ("127.0.0.1", "http://127.0.0.1:5000", "http://localhost:5000"),
        ("0.0.0.0", "http://127.0.0.1:5000", "http://localhost:5000"),  # noqa: S104
        ("::", "http://[::1]:5000", "http://localhost:5000"),
        ("10.0.0.5", "http://10.0.0.5:5000", "http://10.0.0.5:5000"),
        ("fd00::5", "http://[fd00::5]:5000", "http://[fd00::5]:5000"),
    ],
)
def test_addresses(host: str, reachable: str, display: str) -> None:
    assert reachable_url(host, 5000) == reachable
    assert display_url(host, 5000) == display


def test_the_welcome_shows_what_was_made_now() -> None:
    text = welcome("http://localhost:5000", "echo", Credentials("pass", "key"), DONE, seconds=2)
    assert "Login      admin, pass" in text
    assert "Bearer key" in text
    assert "echo on cpu" in text


def test_the_welcome_does_not_show_what_is_not_known() -> None:
    text = welcome("http://localhost:5000", "echo", Credentials(None, None), DONE, seconds=2)
    assert "None" not in text
    assert "YOUR_API_KEY" in text
