"""Keys with a token budget, over HTTP: reserved before, settled whatever the end is, and never overdrawn."""

import asyncio
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from typing import Any

import httpx
import pytest
from django.test import override_settings

from accounts.models import ApiKey
from common.redis import key as redis_key
from common.redis import sync_redis
from engine.messages import ChatTurn, Generate
from engine.params import SamplingParams
from inference.token_bound import TEMPLATE_TOKENS, TURN_TOKENS, most_tokens
from tests.inference.conftest import EchoServer, wait_until
from tests.running_server import running_server
from tests.server_keys import make_keys

BUDGET = 10_000
EXTRA = TEMPLATE_TOKENS + TURN_TOKENS
LONG = {"text": "one two three four", "max_tokens": 6000}
_numbers = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """Two web processes; a token takes 10 ms."""
    with running_server(
        tmp_path_factory.mktemp("budgets"),
        LLAMA_GPU_DEFAULT_MODEL="echo",
        LLAMA_GPU_ECHO_DELAY="0.01",
        LLAMA_GPU_WEB_PROCESSES="2",
    ) as running:
        yield EchoServer(running)


class Key:
    """A fresh key with a budget."""

    def __init__(self, server: EchoServer, budget: int = BUDGET) -> None:
        self.server = server
        name = f"budget {next(_numbers)}"
        (key,) = make_keys(server.running_server, {"name": name, "token_budget": budget, "token_budget_window": 3600})
        self.headers = {"Authorization": f"Bearer {key}"}
        self.id = _id_of(server, name)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.server.post(path, body, **self.headers)

    def used(self) -> tuple[int, int]:
        with override_settings(REDIS_URL=self.server.redis_url):
            used, reserved = sync_redis().hmget(redis_key("budget", self.id), "used", "reserved")  # type: ignore[misc]
        return int(used or 0), int(reserved or 0)

    def settles_at(self, tokens: int) -> bool:
        wait_until(lambda: self.used()[1] == 0, 10)
        return self.used() == (tokens, 0)


def _id_of(server: EchoServer, name: str) -> int:
    with closing(sqlite3.connect(server.running_server.data_dir / "llama_gpu.sqlite3")) as database:
        query = f"SELECT id FROM {ApiKey._meta.db_table} WHERE name = ?"  # noqa: S608
        return int(database.execute(query, [name]).fetchone()[0])


@pytest.fixture
def key(server: EchoServer) -> Key:
    return Key(server)


def test_a_request_is_charged_what_it_took(key: Key) -> None:
    answer = key.post("infer", {"text": "a b c", "max_tokens": 20})
    assert answer.status_code == 200
    assert answer.headers["X-TokenBudget-Limit"] == str(BUDGET)
    assert answer.headers["X-TokenBudget-Remaining"] == str(BUDGET - (5 + 20 + EXTRA))
    assert 0 < int(answer.headers["X-TokenBudget-Reset"]) - time.time() <= 3600
    assert key.used() == (3 + 20, 0)  # settled before the answer was there


def test_a_stream_and_a_batch_are_charged_too(key: Key) -> None:
    answer = key.post("stream_infer", {"text": "a b c", "max_tokens": 20})
    assert answer.headers["X-TokenBudget-Remaining"] == str(BUDGET - (5 + 20 + EXTRA))
    assert key.used() == (23, 0)
    key.post("batch_infer", {"inputs": [{"text": "a b"}, {"text": "[[fail]]"}, {"text": ""}], "max_tokens": 10})
    assert key.used() == (23 + 12, 0)  # a failed item costs nothing


def test_too_few_tokens_left_is_a_429_that_says_when(key: Key) -> None:
    key.post("infer", {"text": "a", "max_tokens": 500})
    answer = key.post("infer", {"text": "a", "max_tokens": BUDGET - 500})
    assert (answer.status_code, answer.reason_phrase) == (429, "Too Many Requests")
    error = answer.json()["error"]
    assert error["code"] == "RATE_LIMIT_EXCEEDED"
    assert error["details"]["token_budget"] == BUDGET
    assert error["details"]["remaining"] == BUDGET - 501
    assert error["details"]["needed"] == BUDGET - 500 + 1 + EXTRA
    assert answer.headers["X-TokenBudget-Remaining"] == str(BUDGET - 501)
    reset = int(answer.headers["X-TokenBudget-Reset"])
    assert abs(reset - time.time() - int(answer.headers["Retry-After"])) <= 2
    assert "X-RateLimit-Limit" in answer.headers
    assert key.used() == (501, 0)


def test_a_refused_prompt_costs_nothing(key: Key) -> None:
    answer = key.post("infer", {"text": "a", "max_tokens": 9000})  # beyond the echo model's context
    assert answer.status_code == 400
    assert key.settles_at(0)


SHORT = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 20}


@pytest.fixture
def lengthening(server: EchoServer) -> Iterator[Callable[[str], None]]:
    """Has a plugin put a system prompt before every prompt."""

    def lengthen(system_prompt: str) -> None:
        config = {"enabled": True, "settings": {"system_prompt": system_prompt}}
        answer = server.post("plugins/model_adapter_v1/load", {"config": config})
        assert answer.status_code == 200, answer.text

    yield lengthen
    httpx.delete(f"{server.url}/api/v1/plugins/model_adapter_v1/unload", headers=server.headers, timeout=60)


def test_what_a_plugin_adds_is_reserved_too(key: Key, lengthening: Callable[[str], None]) -> None:
    lengthening("rules " * 300)
    answer = key.post("infer", SHORT)
    assert answer.status_code == 200, answer.text
    prompt_tokens = answer.json()["result"]["prompt_tokens"]
    assert prompt_tokens > 300 > 1 + 20 + EXTRA  # more than what could be known before
    assert key.used() == (prompt_tokens + 20, 0)


def test_a_plugin_cannot_make_a_request_take_more_than_the_budget(
    server: EchoServer, lengthening: Callable[[str], None]
) -> None:
    key = Key(server, budget=1 + 20 + EXTRA)
    lengthening("rules " * 300)
    answer = key.post("infer", SHORT)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "INVALID_INPUT"
    assert error["details"]["field"] == "max_tokens"
    assert error["details"]["max_tokens"] == 20
    assert error["details"]["prompt_tokens"] > 300
    assert error["details"]["reserved_tokens"] == 1 + 20 + EXTRA
    assert key.settles_at(0)


def test_what_a_plugin_adds_may_use_what_the_estimate_left(
    server: EchoServer, lengthening: Callable[[str], None]
) -> None:
    key = Key(server, budget=1 + 20 + EXTRA)
    lengthening("rules " * 30)  # too many bytes to reserve for, but few tokens
    answer = key.post("infer", SHORT)
    assert answer.status_code == 200, answer.text
    assert key.settles_at(answer.json()["result"]["prompt_tokens"] + 20)


def test_openais_clients_need_not_say_how_much(instant_server: EchoServer) -> None:
    """They send no max_tokens, and nobody knows the echo model's context before it runs."""
    key = Key(instant_server, budget=1000)
    body = {"messages": [{"role": "user", "content": "one two"}], "n": 2}
    answer = httpx.post(f"{instant_server.url}/v1/chat/completions", json=body, headers=key.headers, timeout=60)
    assert answer.status_code == 200, answer.text
    assert {choice["finish_reason"] for choice in answer.json()["choices"]} == {"length"}
    assert key.settles_at(answer.json()["usage"]["completion_tokens"] + 2 * 2)
    assert 500 < key.used()[0] <= 1000


def test_a_budget_serves_openais_clients_until_little_is_left(instant_server: EchoServer) -> None:
    """The first request may take all of it, but takes little; the next ones can do with what is left."""
    key = Key(instant_server, budget=TURN_TOKENS + TEMPLATE_TOKENS + 200)
    body = {"messages": [{"role": "user", "content": "one"}], "stop": ["one"]}

    def ask() -> httpx.Response:
        return httpx.post(f"{instant_server.url}/v1/chat/completions", json=body, headers=key.headers, timeout=60)

    for _ in range(10):
        answer = ask()
        assert answer.status_code == 200, answer.text
    settled = 10 * answer.json()["usage"]["total_tokens"]
    assert key.settles_at(settled)
    key.post("infer", {"text": "a b", "max_tokens": 184 - settled})
    assert ask().status_code == 429
    assert key.settles_at(2 + 184)


@pytest.mark.parametrize(
    ("max_tokens", "context", "share", "reserved"),
    [
        (None, None, 100_000, 5 + EXTRA + 2048),
        (None, 1000, 100_000, 1000),
        (None, 128_000, 900, 900),
        (None, None, 10, 5 + EXTRA + 1),  # never fits
        (50, None, 100_000, 5 + EXTRA + 50),
        (5000, 128_000, 100_000, 5 + EXTRA + 5000),
        (5000, 4096, 100_000, 4096),
    ],
)
def test_what_is_reserved(max_tokens: int | None, context: int | None, share: int, reserved: int) -> None:
    params = SamplingParams(max_tokens=max_tokens or 2**31 - 1)
    request = Generate("r", params, messages=(ChatTurn("user", "12345"),), fills_context=max_tokens is None)
    assert most_tokens(request, context, share) == reserved


def test_a_key_without_a_budget_has_no_budget_headers(server: EchoServer) -> None:
    assert "X-TokenBudget-Limit" not in server.post("infer", {"text": "a", "max_tokens": 1}).headers


def test_a_client_that_leaves_pays_for_what_was_generated(key: Key, server: EchoServer) -> None:
    url = f"{server.url}/api/v1/stream_infer"
    with httpx.stream("POST", url, json=LONG, headers=key.headers) as answer:
        chunks = answer.iter_text()
        for _ in range(20):
            next(chunks)
        assert key.used()[1] > 6000
    wait_until(lambda: key.used()[1] == 0)
    assert 4 + 10 < key.used()[0] < 1000


def test_a_timeout_costs_what_was_generated(key: Key) -> None:
    assert key.post("infer", {**LONG, "timeout": 0.5}).status_code == 500
    wait_until(lambda: key.used()[1] == 0)
    assert 4 + 10 < key.used()[0] < 1000


@pytest.mark.parametrize("victim", ["engine", "worker"])
async def test_what_died_gives_back_what_it_held(key: Key, server: EchoServer, victim: str) -> None:
    wait_until(lambda: server.post("infer", {"text": "a", "max_tokens": 1}).status_code == 200)
    async with server.client() as client:
        asked = asyncio.ensure_future(client.post("/infer", json=LONG, headers=key.headers))
        await asyncio.to_thread(wait_until, lambda: key.used()[1] > 6000)
        await asyncio.to_thread(wait_until, lambda: server.running() == 1)
        worker = server.worker()
        os.kill(worker.pid if victim == "worker" else worker.deployments[0].pid or 0, signal.SIGKILL)
        assert (await asked).status_code == 500
    assert await asyncio.to_thread(key.settles_at, 0)
    wait_until(lambda: server.post("infer", {"text": "a", "max_tokens": 1}).status_code == 200)


async def test_parallel_calls_through_two_web_processes_never_overdraw(server: EchoServer) -> None:
    key = Key(server, budget=2000)
    body = {"text": "a b c d", "max_tokens": 40}
    async with server.client() as client:
        asked = (client.post("/infer", json=body, headers=key.headers) for _ in range(200))
        answers = await asyncio.gather(*asked)
    charged = [44 for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert sum(charged) <= 2000
    assert key.settles_at(sum(charged))
    assert all(json.loads(answer.content)["success"] is (answer.status_code == 200) for answer in answers)
