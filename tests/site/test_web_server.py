"""The web server holds streams back, drops clients that take nothing, and stores no endless bodies."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[2]
SLOW_READER_SECONDS = 1.0
BODY_LIMIT = 100_000
MEGABYTE = 1024**2


@dataclass
class Site:
    port: int
    process: psutil.Process

    def state(self, **request: object) -> dict[str, int]:
        url = f"http://127.0.0.1:{self.port}/state"
        answer: dict[str, int] = httpx.post(url, timeout=20, **request).json()  # type: ignore[arg-type]
        return answer

    def connect(self, request: str) -> socket.socket:
        """A client with small buffers that has sent its request and reads nothing."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.connect(("127.0.0.1", self.port))
        client.sendall(request.replace("\n", "\r\n").encode())
        return client


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        command = [sys.executable, "-m", "tests.site.flooding_site", str(listener.fileno())]
        process = subprocess.Popen(
            [*command, str(SLOW_READER_SECONDS), str(BODY_LIMIT)],
            cwd=ROOT,
            env={**os.environ, "PYTHONWARNINGS": ""},
            pass_fds=[listener.fileno()],
        )
        port = listener.getsockname()[1]
    try:
        until(lambda: accepts(port), seconds=30)
        yield Site(port, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(10)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def until(condition: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


DIRECT_FLOOD = "GET /direct-flood HTTP/1.1\nHost: localhost\n\n"
FLOOD = "GET /flood HTTP/1.1\nHost: localhost\n\n"
WEBSOCKET = (
    "GET /socket HTTP/1.1\nHost: localhost\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\n"
    f"Sec-WebSocket-Key: {base64.b64encode(b'0123456789abcdef').decode()}\n\n"
)


@pytest.mark.parametrize("request_text", [FLOOD, DIRECT_FLOOD, WEBSOCKET], ids=["http", "direct", "websocket"])
def test_it_drops_a_client_that_takes_nothing_and_stays_small(site: Site, request_text: str) -> None:
    before = site.process.memory_info().rss
    with site.connect(request_text) as client:
        until(lambda: site.state()["flooding"] == 1, seconds=5)
        time.sleep(SLOW_READER_SECONDS / 2)
        assert site.process.memory_info().rss - before < 30 * MEGABYTE
        until(lambda: site.state()["flooding"] == 0, seconds=SLOW_READER_SECONDS + 5)
        assert ends(client)


def ends(client: socket.socket) -> bool:
    """Whether the connection comes to an end once what was under way is read."""
    client.settimeout(5)
    try:
        while client.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_parts_written_directly_keep_their_order(site: Site, version: str) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as client:
        client.sendall(f"GET /mixed {version}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = HTTPResponse(client)
        answer.begin()
        body = answer.read()

    expected = b"".join(b"%d," % number * (1 + number % 50) for number in range(600))
    assert body == expected + b"[false, true]"


@pytest.mark.parametrize("request_text", [FLOOD, DIRECT_FLOOD], ids=["http", "direct"])
def test_it_keeps_a_client_that_reads_slowly(site: Site, request_text: str) -> None:
    with site.connect(request_text) as client:
        for _ in range(12):
            time.sleep(SLOW_READER_SECONDS / 4)
            for _ in range(8):
                assert client.recv(1 << 18)
        assert site.state()["flooding"] == 1
    until(lambda: site.state()["flooding"] == 0, seconds=5)


def test_it_serves_others_while_one_stalls(site: Site) -> None:
    with site.connect(FLOOD):
        until(lambda: site.state()["flooding"] == 1, seconds=5)  # others are answered while it stalls
    until(lambda: site.state()["flooding"] == 0, seconds=5)


def test_it_hands_on_a_body_within_the_limit(site: Site) -> None:
    assert site.state(content=b"a" * BODY_LIMIT)["received"] == BODY_LIMIT


def test_it_hands_on_one_byte_more_of_a_body_over_the_limit(site: Site) -> None:
    assert site.state(content=b"a" * (3 * BODY_LIMIT))["received"] == BODY_LIMIT + 1


def test_it_bounds_a_body_of_unknown_length_too(site: Site) -> None:
    assert site.state(content=iter([b"a" * BODY_LIMIT] * 5))["received"] == BODY_LIMIT + 1


def test_it_ends_a_connection_that_never_stops_sending(site: Site) -> None:
    with pytest.raises((httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError)):
        site.state(content=iter(lambda: b"a" * BODY_LIMIT, b""))


def test_it_takes_several_requests_on_one_connection(site: Site) -> None:
    with httpx.Client() as client:
        sizes = [client.post(f"http://127.0.0.1:{site.port}/state", content=b"a" * n).json() for n in (1, 2, 3)]
    assert [size["received"] for size in sizes] == [1, 2, 3], json.dumps(sizes)
