"""Waits for the proof that the server works: a generation that went the whole way, through its own HTTP API."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llama_gpu_site.supervisor.failure import StartError

REQUEST_TIMEOUT_SECONDS = 900.0
PROGRESS_SECONDS = 5.0
# Answers that mean "not yet"; any other failure is final when it comes this often in a row.
_NOT_YET = frozenset({429, 502, 503, 504})
_FINAL_AFTER = 3


@dataclass(frozen=True)
class Answer:
    """What one attempt gave: `status` 0 means that nothing answered."""

    status: int
    body: dict[str, Any]

    @property
    def succeeded(self) -> bool:
        return self.status == http.HTTPStatus.OK and self.body.get("success") is True

    @property
    def reason(self) -> str:
        error = self.body.get("error")
        if isinstance(error, dict):
            return str(error.get("message", error.get("code", "")))
        return f"HTTP status {self.status}" if self.status else "the web process does not answer yet"


def wait_for_generation(
    attempt: Callable[[], Answer], *, say: Callable[[str], None], given_up: threading.Event, pause: float = 0.25
) -> Answer | None:
    """Attempt until one succeeds; None once `given_up` is set. Raises StartError when failures are final."""
    began = reported = time.monotonic()
    final_failures = 0
    while not given_up.is_set():
        answer = attempt()
        if answer.succeeded:
            return answer
        if answer.status and answer.status not in _NOT_YET:
            final_failures += 1
            if final_failures >= _FINAL_AFTER:
                raise StartError(f"The first generation failed: {answer.reason}")
        else:
            final_failures = 0
        now = time.monotonic()
        if now - reported >= PROGRESS_SECONDS:
            reported = now
            say(f"waiting for the first generation since {now - began:.0f} s: {answer.reason}")
        given_up.wait(pause)
        pause = min(pause * 1.2, 2.0)
    return None


def attempt_generation(url: str, token: str) -> Answer:
    """One short completion by the default model."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=REQUEST_TIMEOUT_SECONDS)
    try:
        connection.request(
            "POST",
            "/api/v1/infer",
            json.dumps({"text": "Say hello.", "max_tokens": 4, "temperature": 0}),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Host": "localhost"},
        )
        response = connection.getresponse()
        body = json.loads(response.read())
        return Answer(response.status, body if isinstance(body, dict) else {})
    except (OSError, http.client.HTTPException, ValueError):
        return Answer(0, {})
    finally:
        connection.close()
