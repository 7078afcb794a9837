"""What dies in mid-stream: the engine, the worker, the web process. Every request still ends, the next one works."""

import asyncio
import json
import os
import signal
import time
from typing import Any

import httpx
import pytest

from tests.inference.conftest import EchoServer, wait_until
from tests.inference.test_records import written

LONG = {"text": "one two three four", "max_tokens": 6000}


@pytest.fixture
def server(paced_server: EchoServer) -> EchoServer:
    """With a worker that has its model loaded, whatever the last test has killed."""
    wait_until(lambda: _answers(paced_server))
    wait_until(lambda: paced_server.running() == 0)  # else an old heartbeat might be taken for what a test waits for
    return paced_server


def _answers(server: EchoServer) -> bool:
    return server.post("infer", {"text": "a", "max_tokens": 1}).status_code == 200


def engine_pid(server: EchoServer) -> int:
    def loaded() -> list[int]:
        return [item.pid for item in server.worker().deployments if item.state == "loaded" and item.pid is not None]

    wait_until(lambda: len(loaded()) == 1)  # the last heartbeat may be from before the engine was ready
    return loaded()[0]


def worker_pid(server: EchoServer) -> int:
    return server.worker().pid


async def killed_in_mid_stream(server: EchoServer, pid: int) -> tuple[str, httpx.Response, httpx.Response, float]:
    """Kill a process under a stream, a request and a batch; returns what each got, and the time the last one took."""
    async with server.client() as client:
        ids = [{"X-Request-ID": f"killed-{pid}-{name}"} for name in ("stream", "infer", "batch")]
        async with client.stream("POST", "/stream_infer", json=LONG, headers=ids[0]) as answer:
            chunks = answer.aiter_text()
            text = await anext(chunks)
            infer = asyncio.ensure_future(client.post("/infer", json=LONG, headers=ids[1]))
            body = {"inputs": [LONG, LONG]}
            batch = asyncio.ensure_future(client.post("/batch_infer", json=body, headers=ids[2]))
            await asyncio.to_thread(wait_until, lambda: server.running() == 4)
            os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
            async for chunk in chunks:
                text += chunk
        return text, await infer, await batch, time.monotonic() - began


def check_failed(text: str, infer: httpx.Response, batch: httpx.Response) -> None:
    event, data = text.strip().splitlines()[-2:]
    assert event == "event: error"
    assert text.count("event: error") == 1
    for body in (json.loads(data.removeprefix("data: ")), infer.json(), batch.json()):
        assert body["error"]["code"] == "INFERENCE_FAILED"
    assert infer.status_code == batch.status_code == 500


async def test_a_killed_engine_fails_what_ran_and_the_next_request_works(server: EchoServer) -> None:
    text, infer, batch, seconds = await killed_in_mid_stream(server, engine_pid(server))

    check_failed(text, infer, batch)
    assert seconds < 2
    assert server.post("infer", {"text": "a", "max_tokens": 1}).status_code == 200


async def test_a_killed_worker_fails_what_ran_and_requests_work_again(server: EchoServer) -> None:
    before = worker_pid(server)
    text, infer, batch, seconds = await killed_in_mid_stream(server, before)

    check_failed(text, infer, batch)
    assert seconds < 6
    kept = [row for name in ("stream", "infer", "batch") for row in written(server, f"killed-{before}-{name}")]
    assert [(row["state"], row["error_code"], row["item"]) for row in kept] == [
        ("failed", "INFERENCE_FAILED", item) for item in (0, 0, 0, 1)
    ]
    assert {row["worker"] for row in kept} == {f"{server.worker().host}/cpu"}
    wait_until(lambda: _answers(server), 15)
    assert worker_pid(server) != before
    wait_until(lambda: server.running() == 0, 5)


async def test_a_worker_that_speaks_again_records_nothing_twice(server: EchoServer) -> None:
    pid = worker_pid(server)
    async with server.client() as client:
        waiting = asyncio.ensure_future(client.post("/infer", json=LONG, headers={"X-Request-ID": f"silent-{pid}"}))
        await asyncio.to_thread(wait_until, lambda: server.running() == 1)
        os.kill(pid, signal.SIGSTOP)
        try:
            assert (await waiting).status_code == 500
        finally:
            os.kill(pid, signal.SIGCONT)
    await asyncio.to_thread(wait_until, lambda: _answers(server), 15)
    await asyncio.to_thread(wait_until, lambda: server.running() == 0)
    server.post("infer", {"text": "a", "max_tokens": 1}, **{"X-Request-ID": f"after-{pid}"})
    written(server, f"after-{pid}")  # by the same recorder, after whatever it had to write before
    (row,) = written(server, f"silent-{pid}")
    assert (row["state"], row["error_code"]) == ("failed", "INFERENCE_FAILED")


async def test_a_request_of_a_killed_worker_does_not_run_again(server: EchoServer) -> None:
    async with server.client() as client:
        waiting = asyncio.ensure_future(client.post("/infer", json=LONG))
        await asyncio.to_thread(wait_until, lambda: server.running() == 1)
        os.kill(worker_pid(server), signal.SIGKILL)
        assert (await waiting).status_code == 500
    await asyncio.to_thread(wait_until, lambda: _answers(server), 15)
    await asyncio.sleep(1)

    assert server.running() == 0


def test_an_engine_that_dies_of_a_prompt_is_restarted(server: EchoServer) -> None:
    answer = server.post("infer", {"text": "[[die]]"})

    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "INFERENCE_FAILED"
    assert _answers(server)


async def test_a_worker_told_to_end_lets_short_requests_end(server: EchoServer) -> None:
    async with server.client() as client:
        waiting = asyncio.ensure_future(client.post("/infer", json={"text": "a b", "max_tokens": 150}))
        await asyncio.to_thread(wait_until, lambda: server.running() == 1)
        os.kill(worker_pid(server), signal.SIGTERM)

        answer = await waiting
    assert answer.status_code == 200
    assert answer.json()["result"]["tokens_generated"] == 150
    wait_until(lambda: _answers(server), 15)


async def test_a_worker_told_to_end_does_not_wait_for_long_ones(server: EchoServer) -> None:
    async with server.client() as client:
        waiting = asyncio.ensure_future(client.post("/infer", json=LONG))
        await asyncio.to_thread(wait_until, lambda: server.running() == 1)
        began = time.monotonic()
        os.kill(worker_pid(server), signal.SIGTERM)

        answer = await waiting
    assert 4 < time.monotonic() - began < 8
    assert answer.json()["error"]["code"] == "INFERENCE_FAILED"
    assert "shut down" in answer.json()["error"]["message"]
    wait_until(lambda: _answers(server), 15)


async def test_a_dead_web_process_frees_its_slots(server: EchoServer) -> None:
    async with server.client() as client:
        waiting: Any = asyncio.ensure_future(client.post("/infer", json=LONG))
        await asyncio.to_thread(wait_until, lambda: server.running() == 1)
        os.kill(server.pid_of("web"), signal.SIGKILL)
        with pytest.raises(httpx.HTTPError):
            await waiting

    wait_until(lambda: server.running() == 0, 15)
    wait_until(lambda: _answers_now(server), 15)


async def test_a_killed_valkey_ends_what_ran_and_requests_work_again(server: EchoServer) -> None:
    async with server.client() as client:
        waiting = asyncio.ensure_future(client.post("/infer", json={"text": "a b", "max_tokens": 300}))
        await asyncio.to_thread(wait_until, lambda: server.running() == 1)
        os.kill(server.pid_of("valkey"), signal.SIGKILL)

        assert (await waiting).status_code in {200, 500}
    wait_until(lambda: _answers_now(server), 30)


async def test_a_valkey_that_hangs_is_waited_for_once_and_then_a_503(server: EchoServer) -> None:
    valkey = server.pid_of("valkey")
    os.kill(valkey, signal.SIGSTOP)
    try:
        async with server.client() as client, asyncio.timeout(8):  # of which one answer that is waited for takes 5
            answers = await asyncio.gather(*(client.post("/infer", json={"text": "a"}) for _ in range(20)))
        async with server.client() as client, asyncio.timeout(4):
            answers += [await client.post("/infer", json={"text": "a"})]
    finally:
        os.kill(valkey, signal.SIGCONT)

    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["error"]["code"] for answer in answers} == {"BACKEND_UNAVAILABLE"}
    await asyncio.to_thread(wait_until, lambda: _answers_now(server), 30)


def _answers_now(server: EchoServer) -> bool:
    try:
        return _answers(server)
    except httpx.HTTPError:
        return False
