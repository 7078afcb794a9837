"""The stock clients of Socket.IO against a server with two web processes."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import socketio
from pytest_django import Settings

from common.direct_frames import text_frame
from common.events import ModelLoading, PluginError, PluginLoaded, SystemMetrics, publish
from tests.inference.conftest import wait_until
from tests.monitoring.conftest import NODE_CLIENT, PATIENCE, Lines, NodeWatcher
from tests.running_server import RunningServer
from tests.server_keys import make_keys

Watch = Callable[..., NodeWatcher]


@pytest.fixture
def watch(two_webs: RunningServer, node: str) -> Iterator[Watch]:
    """Starts watchers that end with the test."""
    started: list[NodeWatcher] = []

    def start(key: str, *channels: str, options: dict[str, Any] | None = None, **wanted: Any) -> NodeWatcher:
        wanted["channels"] = list(channels)
        options = {"auth": {"token": key}, "forceNew": True, **(options or {})}
        started.append(NodeWatcher(node, two_webs.url, options, ("subscribe", wanted)))
        return started[-1]

    yield start
    for watcher in started:
        watcher.end()


@pytest.fixture
def publishing(two_webs: RunningServer, settings: Settings) -> None:
    """`publish` reaches that server."""
    settings.REDIS_URL = two_webs.redis_url


def infer(server: RunningServer, key: str, text: str = "one two", path: str = "infer") -> httpx.Response:
    body = {"text": text, "max_tokens": 2}
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx.post(f"{server.url}/api/v1/{path}", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer


def loading(model: str) -> ModelLoading:
    return ModelLoading(model=model, progress=0.5, stage="read")


# ---------------------------------------------------------------- npm's socket.io-client


@pytest.mark.parametrize(
    ("options", "transport"),
    [({"transports": ["polling"]}, "polling"), ({"transports": ["websocket"]}, "websocket"), ({}, "websocket")],
    ids=["polling", "websocket", "upgrade"],
)
@pytest.mark.usefixtures("publishing")
def test_the_stock_client_works_over_every_transport(
    two_webs: RunningServer, watch: Watch, options: dict[str, Any], transport: str
) -> None:
    """Three clients each: with two processes, some of their requests come to the one that isn't theirs."""
    watchers = [watch(two_webs.api_key, "model_events", "gossip", options=options) for _ in range(3)]
    for watcher in watchers:
        answer = watcher.one("ack")
        assert (answer["granted"], answer["refused"][0]["channel"]) == (["model_events"], "gossip")
        assert watcher.event("subscribed")["granted"] == ["model_events"]
    names = [f"{transport} {number}" for number in range(40)]
    for name in names:
        publish(loading(name))
    for watcher in watchers:
        watcher.wait(lambda _, watcher=watcher: len(watcher.events("model_loading")) >= len(names))
        assert [event["model"] for event in watcher.events("model_loading")] == names
        used = [watcher.one("connect")["transport"], *(found["transport"] for found in watcher.all("upgrade"))]
        assert used[-1] == transport
        assert watcher.all("disconnect") == watcher.all("connect_error") == []


@pytest.mark.usefixtures("publishing")
def test_the_lines_of_the_api_document_work_as_they_stand(two_webs: RunningServer, node: str, tmp_path: Path) -> None:
    script = NODE_CLIENT / f"seed_{tmp_path.name}.js"
    lines = (NODE_CLIENT / "seed.js").read_text()
    lines = lines.replace("http://localhost:5000", two_webs.url).replace("your_api_key_here", two_webs.api_key)
    script.write_text(lines)
    program = Lines([node, script.name], NODE_CLIENT)
    metrics = SystemMetrics(
        host="a",
        cpu_usage=45.2,
        memory_usage=67.8,
        disk_usage=34.1,
        network_rx=1024000,
        network_tx=512000,
        active_requests=12,
        request_rate=42.3,
    )

    def said(lines: list[str]) -> str:
        publish(metrics, PluginLoaded(plugin_id="filter"), PluginError(plugin_id="filter", error="It broke."))
        infer(two_webs, two_webs.api_key, "hello there")
        time.sleep(0.2)
        text = "".join(lines)
        wanted = ("System metrics:", "Inference started:", "Inference completed:", "Plugin loaded:", "Plugin error:")
        return text if all(words in text for words in wanted) else ""

    try:
        text = program.wait(said)
    finally:
        program.end()
        script.unlink()
    assert "cpu_usage: 45.2" in text
    assert "Plugin error: filter It broke." in text
    assert re.search(r"Inference started: req_\S+\n", text)
    assert re.search(r"Inference completed: req_\S+ \{\s+generated_text: 'hello there'", text)
    assert "undefined" not in text


@pytest.mark.parametrize("options", [{}, {"transports": ["websocket"]}, {"transports": ["polling"]}])
def test_a_bad_token_is_a_connect_error(watch: Watch, options: dict[str, Any]) -> None:
    watcher = watch("not-a-key", "model_events", options=options)
    error = watcher.one("connect_error")
    assert error["data"]["code"] == "AUTHENTICATION_FAILED"
    assert watcher.all("connect") == []


def test_no_token_is_a_connect_error(watch: Watch) -> None:
    assert watch("", options={"auth": {}}).one("connect_error")["data"]["code"] == "AUTHENTICATION_FAILED"


def test_a_token_of_a_session_and_a_header_open_it_too(two_webs: RunningServer, watch: Watch) -> None:
    body = {"username": "admin", "password": two_webs.admin_password}
    token = httpx.post(f"{two_webs.url}/api/v1/auth/login", json=body).json()["token"]
    assert watch(token, "log_events").one("ack")["granted"] == ["log_events"]
    by_header = {"auth": {}, "extraHeaders": {"Authorization": f"Bearer {two_webs.api_key}"}}
    assert watch("", "log_events", options=by_header).one("ack")["granted"] == ["log_events"]


def test_callers_see_their_own_requests_and_administrators_all(two_webs: RunningServer, watch: Watch) -> None:
    ann, ben = make_keys(two_webs, {"owner": "ann"}, {"owner": "ben"})
    watchers = [watch(key, "inference_events", "log_events") for key in (ann, ben, two_webs.api_key)]
    granted = [watcher.one("ack")["granted"] for watcher in watchers]
    assert granted == [["inference_events"], ["inference_events"], ["inference_events", "log_events"]]
    secret = "violets are blue"
    request_id = infer(two_webs, ann, secret).headers["X-Request-ID"]
    of_ann, of_ben, of_admin = watchers
    done = of_ann.event("inference_completed")
    assert (done["request_id"], done["result"]["generated_text"]) == (request_id, "violets")
    assert done["data"]["backend"] == "cpu"
    assert of_ann.event("inference_started")["request_id"] == request_id
    seen = of_admin.event("inference_completed")
    assert (seen["request_id"], seen["result"], seen["tokens_generated"]) == (request_id, None, 2)
    assert "violets" not in json.dumps(of_admin.all("event"))
    infer(two_webs, ben)
    of_ben.event("inference_completed")
    assert len(of_ben.events("inference_completed")) == len(of_ann.events("inference_completed")) == 1


def test_failed_and_cancelled_requests_are_told_of(two_webs: RunningServer, watch: Watch) -> None:
    watcher = watch(two_webs.api_key, "inference_events")
    watcher.one("ack")
    headers = {"Authorization": f"Bearer {two_webs.api_key}"}
    slow = {"text": "word " * 400, "max_tokens": 400, "timeout": 0.3}
    assert httpx.post(f"{two_webs.url}/api/v1/infer", json=slow, headers=headers, timeout=30).status_code == 500
    cancelled = watcher.event("inference_cancelled")
    assert cancelled["reason"] == "timeout"
    assert 0 < cancelled["tokens_generated"] < 400
    assert watcher.event("inference_started")["request_id"] == cancelled["request_id"]
    too_long = {"text": "a b", "max_tokens": 10_000_000}
    refused = httpx.post(f"{two_webs.url}/api/v1/infer", json=too_long, headers=headers, timeout=30)
    failed = watcher.event("inference_failed")
    assert failed["request_id"] == refused.json()["request_id"]
    assert (failed["code"], failed["error"]) == ("INVALID_INPUT", refused.json()["error"]["message"])
    batch = {"inputs": [{"id": "x", "text": "a"}, {"id": "y", "text": "b c"}], "max_tokens": 1}
    httpx.post(f"{two_webs.url}/api/v1/batch_infer", json=batch, headers=headers, timeout=30).raise_for_status()
    items = watcher.wait(lambda _: len(found := watcher.events("inference_completed")) == 2 and found)
    assert {(item["item"], item["result"]["generated_text"]) for item in items} == {(0, "a"), (1, "b")}


@pytest.mark.usefixtures("publishing")
def test_the_past_is_played_again_after_a_reconnect(two_webs: RunningServer, watch: Watch) -> None:
    first = watch(two_webs.api_key, "model_events")
    first.one("ack")
    publish(loading("seen"))
    last = first.event("model_loading")["id"]
    first.end()
    publish(loading("missed 1"), PluginLoaded(plugin_id="filter"), loading("missed 2"))
    second = watch(two_webs.api_key, "model_events", after=last)
    assert second.one("ack")["replayed"] == 2
    publish(loading("new"))
    second.event("model_loading", 3)
    assert [event["model"] for event in second.events("model_loading")] == ["missed 1", "missed 2", "new"]
    third = watch(two_webs.api_key, "model_events", replay=1)
    assert third.event("model_loading")["model"] == "new"


@pytest.mark.usefixtures("publishing")
def test_what_is_unsubscribed_from_stays_away(two_webs: RunningServer, node: str) -> None:
    both = {"channels": ["model_events", "plugin_events"]}
    emits = (("subscribe", both), ("unsubscribe", {"channels": ["model_events"]}))
    watcher = NodeWatcher(node, two_webs.url, {"auth": {"token": two_webs.api_key}}, *emits)
    try:
        answer = watcher.one("ack", 2)
        assert (answer["left"], answer["channels"]) == (["model_events"], ["plugin_events"])
        publish(loading("x"), PluginLoaded(plugin_id="filter"))
        watcher.event("plugin_loaded")
        assert watcher.events("model_loading") == []
    finally:
        watcher.end()


def test_a_revoked_key_is_disconnected_and_stays_out(two_webs: RunningServer, watch: Watch) -> None:
    headers = {"Authorization": f"Bearer {two_webs.api_key}"}
    made = httpx.post(f"{two_webs.url}/api/v1/keys", json={"name": "short"}, headers=headers).json()
    watcher = watch(made["key"], "model_events")
    watcher.one("ack")
    httpx.delete(f"{two_webs.url}/api/v1/keys/{made['api_key']['id']}", headers=headers).raise_for_status()
    assert watcher.one("disconnect")["reason"] == "io server disconnect"
    assert watcher.event("error")["error"]["code"] == "AUTHENTICATION_FAILED"


# ---------------------------------------------------------------- python-socketio


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], ["polling", "websocket"]])
@pytest.mark.usefixtures("publishing")
def test_python_socketio_works_over_every_transport(two_webs: RunningServer, transports: list[str]) -> None:
    with socketio.SimpleClient() as client:
        client.connect(two_webs.url, auth={"token": two_webs.api_key}, transports=transports)
        answer = client.call("subscribe", {"channels": ["model_events"]}, timeout=PATIENCE)
        assert answer["granted"] == ["model_events"]
        names = [f"{transports} {number}" for number in range(100)]  # more than one poll of this client may bring
        publish(*map(loading, names))
        heard: list[str] = []
        while len(heard) < len(names):
            name, data = client.receive(timeout=PATIENCE)
            heard += [data["model"]] if name == "model_loading" else []
        assert heard == names


def test_python_socketio_is_refused_with_a_bad_token(two_webs: RunningServer) -> None:
    client, errors = socketio.Client(), []
    client.on("connect_error", errors.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(two_webs.url, auth={"token": "not-a-key"})
    assert errors[0]["data"]["code"] == "AUTHENTICATION_FAILED"


# ---------------------------------------------------------------- sessions of one process, at the other one


def test_both_processes_serve_a_session_of_one(two_webs: RunningServer) -> None:
    """Each poll opens a connection of its own, which the kernel gives to either process."""
    sids = set()
    for _ in range(8):
        opened = httpx.get(f"{two_webs.url}/socket.io/?EIO=4&transport=polling").text
        sid = json.loads(opened[1:])["sid"]
        sids.add(sid.partition(".")[0])
        address = f"{two_webs.url}/socket.io/?EIO=4&transport=polling&sid={sid}"
        for _ in range(2):
            connect = httpx.post(address, content='40{"token":"bad"}')
            assert (connect.status_code, connect.text) == (200, "OK")
            assert "AUTHENTICATION_FAILED" in httpx.get(address).text
    assert len(sids) == 2


def test_a_session_of_a_process_that_is_gone_is_unknown(two_webs: RunningServer) -> None:
    for sid in ("0123456789ab.xyz", "xyz", "../../etc.passwd"):
        address = f"{two_webs.url}/socket.io/?EIO=4&transport=polling"
        assert httpx.get(address, params={"EIO": 4, "transport": "polling", "sid": sid}).status_code == 400


def test_other_sites_pages_are_refused(two_webs: RunningServer) -> None:
    address = f"{two_webs.url}/socket.io/?EIO=4&transport=polling"
    assert httpx.get(address, headers={"Origin": "https://evil.example"}).status_code == 400
    assert httpx.get(address, headers={"Origin": two_webs.url}).status_code == 200


# ---------------------------------------------------------------- a Redis that goes away


def test_watchers_stay_while_redis_is_away_and_hear_on_when_it_is_back(two_webs: RunningServer, watch: Watch) -> None:
    """One watcher at each of the processes, with luck; one at least."""
    watchers = [watch(two_webs.api_key, "inference_events", options={"transports": ["websocket"]}) for _ in range(4)]
    for watcher in watchers:
        watcher.one("ack")
    before = two_webs.pid_of("valkey")
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: two_webs.pid_of("valkey") not in {None, before})
    wait_until(lambda: _answers(two_webs))
    request_id = infer(two_webs, two_webs.api_key).json()["metadata"]["request_id"]
    for watcher in watchers:
        watcher.wait(lambda _, w=watcher: request_id in {e["request_id"] for e in w.events("inference_completed")})
        heard = [event["request_id"] for event in watcher.events("inference_completed")]
        assert len(heard) == len(set(heard))
        assert (len(watcher.all("connect")), watcher.all("disconnect")) == (1, [])


def _answers(server: RunningServer) -> bool:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    with suppress(httpx.HTTPError):
        body = {"text": "a", "max_tokens": 1}
        return httpx.post(f"{server.url}/api/v1/infer", json=body, headers=headers, timeout=10).status_code == 200
    return False


# ---------------------------------------------------------------- slow and dead subscribers


@pytest.mark.usefixtures("publishing")
def test_one_that_reads_nothing_is_cut_off_and_delays_nobody(two_webs: RunningServer, watch: Watch) -> None:
    host, port = two_webs.url.removeprefix("http://").split(":")
    watcher = watch(two_webs.api_key, "model_events", options={"transports": ["websocket"]})
    watcher.one("ack")
    with socket.create_connection((host, int(port))) as dead:
        dead.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        dead.sendall(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        token = json.dumps({"token": two_webs.api_key})
        wanted = json.dumps(["subscribe", {"channels": ["model_events"]}])
        for message in (f"40{token}", f"42{wanted}"):
            time.sleep(0.3)
            dead.sendall(_masked(message))
        time.sleep(0.5)
        big = "x" * 20_000
        for number in range(800):
            publish(loading(f"{number} {big}"))
        watcher.wait(lambda _: len(watcher.events("model_loading")) >= 800)
        dead.settimeout(PATIENCE)
        time.sleep(5)  # more than twice LLAMA_GPU_SLOW_READER_SECONDS
        assert _received(dead) < 800 * len(big)
    assert infer(two_webs, two_webs.api_key).status_code == 200


def _masked(text: str) -> bytes:
    """A client's frame: ours with the mask bit, and a mask of zeros."""
    frame = text_frame(text)
    head = 2 if frame[1] < 126 else 4
    return frame[:1] + bytes((frame[1] | 0x80,)) + frame[2:head] + bytes(4) + frame[head:]


def _received(connection: socket.socket) -> int:
    """How many bytes come until the connection ends."""
    received = 0
    with suppress(ConnectionError):
        while part := connection.recv(1 << 20):
            received += len(part)
    return received
