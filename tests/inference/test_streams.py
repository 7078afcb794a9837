"""Streams under stress: many at once, clients that leave, stall or wait, and deadlines."""

import asyncio
import json
import socket
import time
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.inference.conftest import EchoServer, wait_until

LONG = {"text": "one two three four", "max_tokens": 6000}


def free_within_a_second(server: EchoServer) -> None:
    """The worker's heartbeat, sent twice a second, shows the slot free: freed within 1 s, seen within 1.7 s."""
    assert wait_until(lambda: server.running() == 0, 5) < 1.7


def raw_stream(server: EchoServer, body: dict[str, Any], receive_buffer: int = 0) -> socket.socket:
    parts = urlsplit(server.url)
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((parts.hostname, parts.port))
    data = json.dumps(body).encode()
    head = "POST /api/v1/stream_infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Authorization: {server.headers['Authorization']}\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


async def test_64_parallel_streams_all_end_whole(paced_server: EchoServer) -> None:
    async def one(client: httpx.AsyncClient, number: int) -> tuple[str, str]:
        text = f"stream {number} says something"
        answer = await client.post("/stream_infer", json={"text": text, "max_tokens": 20 + number % 7})
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
        assert events[-1]["is_complete"], answer.text[-200:]
        assert events[-1]["tokens_generated"] == 20 + number % 7
        assert events[-1]["final_text"].startswith(text)
        return "".join(event["token"] for event in events), events[-1]["final_text"]

    async with paced_server.client() as client:
        for joined, final in await asyncio.gather(*(one(client, number) for number in range(64))):
            assert joined == final


async def test_tokens_arrive_as_they_are_made(paced_server: EchoServer) -> None:
    arrivals = []
    async with (
        paced_server.client() as client,
        client.stream("POST", "/stream_infer", json={"text": "a b c d", "max_tokens": 60}) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                arrivals.append(time.monotonic())

    assert len(arrivals) == 60
    assert arrivals[-1] - arrivals[0] > 0.3


async def test_a_client_that_leaves_a_stream_frees_its_slot(paced_server: EchoServer) -> None:
    async with paced_server.client() as client, client.stream("POST", "/stream_infer", json=LONG) as answer:
        async for _ in answer.aiter_bytes():
            break
        wait_until(lambda: paced_server.running() == 1)

    free_within_a_second(paced_server)


async def test_a_client_that_leaves_while_it_waits_frees_its_slot(paced_server: EchoServer) -> None:
    async with paced_server.client() as client:
        waiting = asyncio.ensure_future(client.post("/infer", json=LONG))
        await asyncio.to_thread(wait_until, lambda: paced_server.running() == 1)
        waiting.cancel()

    free_within_a_second(paced_server)


async def test_a_client_that_leaves_a_batch_frees_all_its_slots(paced_server: EchoServer) -> None:
    async with paced_server.client() as client:
        waiting = asyncio.ensure_future(client.post("/batch_infer", json={"inputs": [LONG] * 5}))
        await asyncio.to_thread(wait_until, lambda: paced_server.running() == 5)
        waiting.cancel()

    free_within_a_second(paced_server)


def test_a_timeout_fails_the_request_and_frees_its_slot(paced_server: EchoServer) -> None:
    began = time.monotonic()
    answer = paced_server.post("infer", {**LONG, "timeout": 0.7})

    assert 0.6 < time.monotonic() - began < 2
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "INFERENCE_FAILED"
    assert answer.json()["error"]["details"] == {"timeout": 0.7}
    free_within_a_second(paced_server)


def test_a_timeout_of_a_stream_is_an_error_event(paced_server: EchoServer) -> None:
    answer = paced_server.post("stream_infer", {**LONG, "timeout": 0.7})

    assert answer.status_code == 200
    event, data = answer.text.strip().splitlines()[-2:]
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["details"] == {"timeout": 0.7}
    free_within_a_second(paced_server)


def test_a_waiting_stream_is_kept_alive_by_comments(paced_server: EchoServer) -> None:
    """32 sequences fill the engine; the 33rd is accepted, waits, and hears of it."""
    connections = [raw_stream(paced_server, LONG) for _ in range(32)]
    try:
        wait_until(lambda: paced_server.running() == 32)
        with closing(raw_stream(paced_server, LONG)) as waiting:
            waiting.settimeout(5)
            seen = b""
            while b": keep-alive\n\n" not in seen:
                seen += waiting.recv(4096)
            assert b"data: " not in seen
    finally:
        for connection in connections:
            connection.close()
    free_within_a_second(paced_server)


def test_a_full_queue_answers_503_at_once_and_then_takes_requests_again(paced_server: EchoServer) -> None:
    connections = [raw_stream(paced_server, LONG) for _ in range(80)]
    try:
        wait_until(lambda: paced_server.running() == 80)
        for path, body in (("infer", LONG), ("stream_infer", LONG), ("batch_infer", {"inputs": [LONG]})):
            began = time.monotonic()
            answer = paced_server.post(path, body)

            assert time.monotonic() - began < 1
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "BACKEND_UNAVAILABLE"
            assert int(answer.headers["Retry-After"]) >= 1
    finally:
        for connection in connections:
            connection.close()
    free_within_a_second(paced_server)
    assert paced_server.post("infer", {"text": "a", "max_tokens": 1}).status_code == 200


async def test_a_premium_request_goes_ahead_of_those_that_waited_before_it(paced_server: EchoServer) -> None:
    """The administrator's own token has the standard tier, the first key the premium one."""
    login = {"username": "admin", "password": paced_server.running_server.admin_password}
    standard = {"Authorization": f"Bearer {paced_server.post('auth/login', login).json()['token']}"}
    short = {"text": "a", "max_tokens": 60}
    ended: list[str] = []

    async def one(client: httpx.AsyncClient, name: str, headers: dict[str, str]) -> None:
        answer = await client.post("/infer", json=short, headers=headers)
        assert answer.status_code == 200
        ended.append(name)

    connections = [raw_stream(paced_server, LONG) for _ in range(32)]
    try:
        await asyncio.to_thread(wait_until, lambda: paced_server.running() == 32)
        async with paced_server.client() as client:
            waiting = [asyncio.ensure_future(one(client, "standard", standard)) for _ in range(2)]
            await asyncio.to_thread(wait_until, lambda: paced_server.running() == 34)
            waiting.append(asyncio.ensure_future(one(client, "premium", {})))
            await asyncio.to_thread(wait_until, lambda: paced_server.running() == 35)
            connections.pop().close()
            await asyncio.gather(*waiting)
    finally:
        for connection in connections:
            connection.close()
    assert ended == ["premium", "standard", "standard"]
    free_within_a_second(paced_server)


def test_a_reader_that_stalls_holds_nobody_up(instant_server: EchoServer) -> None:
    with closing(raw_stream(instant_server, {**LONG, "max_tokens": 8000}, receive_buffer=2048)):
        wait_until(lambda: instant_server.running() == 0, 20)
        answer = instant_server.post("infer", {"text": "a", "max_tokens": 1})

        assert answer.status_code == 200
