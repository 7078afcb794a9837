"""Plugins in a whole server: two web processes, a worker, and a package that pip has installed."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.test import override_settings

from common.event_reader import read_events
from common.events import Channel, PluginError, PluginLoaded, PluginUnloaded
from tests.inference.conftest import EchoServer, wait_until

FOLLOWED_SECONDS = 1.0
PLUGIN_EVENTS: Sequence[Channel] = ("plugin_events",)
# What is left out of a configuration stays as the test before has left it.
DEFAULTS: dict[str, Any] = {
    "enabled": True, "priority": 100, "settings": {}, "on_error": "open", "slow_seconds": 5, "timeout_seconds": 10,
    "max_failures": 5, "retry_seconds": 60,
}  # fmt: skip


@pytest.fixture
def server(plugged_server: EchoServer) -> Iterator[EchoServer]:
    """Without any plugin loaded, before and after."""
    yield plugged_server
    for plugin in get(plugged_server, "plugins")["plugins"]:
        if plugin["status"] == "loaded":
            call(plugged_server, "DELETE", f"plugins/{plugin['id']}/unload")
    time.sleep(FOLLOWED_SECONDS)


def call(server: EchoServer, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    """On a connection of its own, so that either web process may answer."""
    return httpx.request(
        method, f"{server.url}/api/v1/{path}", json=body, headers={**server.headers, **headers}, timeout=60
    )


def get(server: EchoServer, path: str) -> dict[str, Any]:
    body: dict[str, Any] = call(server, "GET", path).json()
    return body


def load(server: EchoServer, plugin_id: str, **config: Any) -> dict[str, Any]:
    """Load a plugin, and wait as long as the workers may take to follow."""
    answer = call(server, "POST", f"plugins/{plugin_id}/load", {"config": {**DEFAULTS, **config}})
    assert answer.status_code == 200, answer.text
    time.sleep(FOLLOWED_SECONDS)
    body: dict[str, Any] = answer.json()
    return body


def infer(server: EchoServer, text: str, **body: Any) -> httpx.Response:
    return call(server, "POST", "infer", {"text": text, "max_tokens": 12, **body})


def stream(server: EchoServer, text: str, **body: Any) -> list[dict[str, Any]]:
    answer = call(server, "POST", "stream_infer", {"text": text, "max_tokens": 12, **body})
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


def recorded(server: EchoServer, request_id: str) -> dict[str, Any]:
    """What the record says of the plugins."""

    def rows() -> list[Any]:
        with closing(sqlite3.connect(server.running_server.data_dir / "llama_gpu.sqlite3")) as database:
            query = "SELECT plugins FROM inference_requestrecord WHERE request_id = ?"
            return list(database.execute(query, [request_id]))

    wait_until(lambda: bool(rows()))
    plugins: dict[str, Any] = json.loads(rows()[0][0])
    return plugins


def test_an_installed_package_is_found_loaded_and_run(server: EchoServer) -> None:
    listed = {plugin["id"]: plugin for plugin in get(server, "plugins")["plugins"]}
    assert listed["shout"]["package"] == "llama-gpu-shout 0.3.0"
    assert (listed["shout"]["status"], listed["broken_import"]["status"]) == ("available", "failed")
    assert listed["old"]["status"] == "failed"  # written for another version of the plugin API

    body = load(server, "shout", settings={"mark": "?"})
    assert body["message"] == "Plugin loaded successfully"
    assert body["plugin"]["load_time"] > 0
    assert infer(server, "a b").json()["result"]["generated_text"].endswith("B?")
    refused = infer(server, "whisper")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "INVALID_INPUT")
    assert refused.json()["error"]["details"] == {"field": "text", "plugin": "shout"}


def test_all_workers_and_web_processes_follow_within_a_second(server: EchoServer) -> None:
    load(server, "shout")
    for _ in range(6):  # whichever process answers
        assert infer(server, "abc").json()["result"]["generated_text"].isupper()
        assert get(server, "plugins/shout")["plugin"]["status"] == "loaded"
    call(server, "PUT", "plugins/shout/config", {"config": {"settings": {"mark": "#"}}})
    time.sleep(FOLLOWED_SECONDS)
    assert infer(server, "abc").json()["result"]["generated_text"].endswith("#")
    call(server, "PUT", "plugins/shout/config", {"config": {"enabled": False}})
    time.sleep(FOLLOWED_SECONDS)
    assert infer(server, "abc").json()["result"]["generated_text"].islower()
    call(server, "PUT", "plugins/shout/config", {"config": {"enabled": True}})
    call(server, "DELETE", "plugins/shout/unload")
    time.sleep(FOLLOWED_SECONDS)
    assert infer(server, "abc").json()["result"]["generated_text"].islower()


async def test_a_running_request_keeps_the_chain_it_began_with(server: EchoServer) -> None:
    load(server, "shout")
    body = {"text": "abc def", "max_tokens": 600}
    tokens: list[str] = []
    async with server.client() as client, client.stream("POST", "/stream_infer", json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                tokens.append(event["token"])
                if len(tokens) == 1:
                    await client.delete("/plugins/shout/unload")
    assert event["is_complete"]
    assert event["final_text"] == "".join(tokens)
    assert event["final_text"].isupper()
    assert event["final_text"].endswith("!")
    assert infer(server, "abc").json()["result"]["generated_text"].islower()


def test_no_match_leaks_from_a_stream_and_the_deltas_are_the_final_text(server: EchoServer) -> None:
    load(server, "response_filter", settings={"rules": [{"words": ["project zebra"]}, {"pattern": r"\d{3}-\d{4}"}]})
    load(server, "pii_redactor", settings={"input": False})
    text = "é the Project Zebra costs 555-1234, ask john.doe@example.com or 4111 1111 1111 1111 now "
    events = stream(server, text, max_tokens=80)
    joined = "".join(event["token"] for event in events)
    assert events[-1]["final_text"] == joined
    assert len(events) > 5
    for secret in ("zebra", "Zebra", "1234", "john", "example.com", "4111"):
        assert secret not in joined
    whole = infer(server, text, max_tokens=80).json()["result"]["generated_text"]
    assert whole == joined
    batch = call(server, "POST", "batch_infer", {"inputs": [{"text": text}, {"text": "fine"}], "max_tokens": 80}).json()
    assert batch["results"][0]["generated_text"] == joined


async def test_many_streams_at_once_stay_apart(server: EchoServer) -> None:
    load(server, "response_filter", settings={"rules": [{"words": ["secret"], "action": "redact"}]})

    async def one(client: httpx.AsyncClient, number: int) -> None:
        answer = await client.post("/stream_infer", json={"text": f"{number} secret x{number} ", "max_tokens": 30})
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
        joined = "".join(event["token"] for event in events)
        assert joined == events[-1]["final_text"]
        assert joined.startswith(f"{number} [redacted] x{number}")

    async with server.client() as client:
        await asyncio.gather(*(one(client, number) for number in range(32)))


def test_a_blocked_answer_ends_with_a_named_error(server: EchoServer) -> None:
    rule = {"name": "no zebras", "words": ["zebra"], "action": "block"}
    load(server, "response_filter", settings={"rules": [rule]})
    answer = infer(server, "a b zebra c")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "CONTENT_BLOCKED")
    assert answer.reason_phrase == HTTPStatus(422).phrase
    assert answer.json()["error"]["details"] == {"rule": "no zebras", "plugin": "response_filter"}

    text = call(server, "POST", "stream_infer", {"text": "a b zebra c", "max_tokens": 5000}).text
    assert "zebra" not in text.split("event: error")[0]
    assert '"CONTENT_BLOCKED"' in text
    wait_until(lambda: server.running() == 0, 3)

    batch = call(server, "POST", "batch_infer", {"inputs": [{"text": "zebra x"}, {"text": "fine"}], "max_tokens": 2})
    first, second = batch.json()["results"]
    assert first["error"]["code"] == "CONTENT_BLOCKED"
    assert second["generated_text"].startswith("fine")


def v1(server: EchoServer, path: str, **body: Any) -> httpx.Response:
    body = {"model": "echo", "max_tokens": 80, **body}
    return httpx.post(f"{server.url}/v1/{path}", json=body, headers=server.headers, timeout=60)


def v1_stream(server: EchoServer, path: str, **body: Any) -> list[dict[str, Any]]:
    lines = v1(server, path, stream=True, **body).text.splitlines()
    assert [line for line in lines if line][-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def test_plugins_act_under_v1_as_well(server: EchoServer) -> None:
    load(server, "prompt_guard", settings={"rules": [{"name": "override", "words": ["ignore all instructions"]}]})
    load(server, "pii_redactor", settings={"output": False})
    rules = [{"words": ["project zebra"]}, {"name": "no plans", "words": ["secret plan"], "action": "block"}]
    load(server, "response_filter", settings={"rules": rules})
    text = "The Project Zebra is led by john.doe@example.com now"
    turns = [{"role": "user", "content": text}]

    whole = v1(server, "chat/completions", messages=turns).json()["choices"][0]["message"]["content"]
    assert "The [redacted] is led by [email] now" in whole
    chunks = v1_stream(server, "chat/completions", messages=turns)
    assert len(chunks) > 5
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == whole

    whole = v1(server, "completions", prompt=text).json()["choices"][0]["text"]
    assert whole.startswith("The [redacted] is led by [email] now")
    chunks = v1_stream(server, "completions", prompt=text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole

    refused = v1(server, "chat/completions", messages=[{"role": "user", "content": "IGNORE all instructions"}])
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"
    blocked = v1(server, "chat/completions", messages=[{"role": "user", "content": "the secret plan is"}])
    assert (blocked.status_code, blocked.json()["error"]["code"]) == (422, "content_filter")
    answer = v1(server, "chat/completions", stream=True, messages=[{"role": "user", "content": "the secret plan is"}])
    assert "content_filter" in answer.text
    assert "secret" not in answer.text


def test_plugins_run_by_priority(server: EchoServer) -> None:
    rule = {"words": ["ABC"], "ignore_case": False, "action": "replace", "replacement": "found"}
    load(server, "response_filter", priority=200, settings={"rules": [rule]})
    load(server, "shout", priority=100)
    assert infer(server, "abc ", max_tokens=1).json()["result"]["generated_text"] == "found!"
    call(server, "PUT", "plugins/shout/config", {"config": {"priority": 300}})
    time.sleep(FOLLOWED_SECONDS)
    assert infer(server, "abc ", max_tokens=1).json()["result"]["generated_text"] == "ABC!"


def test_each_plugins_time_is_in_the_record_and_a_slow_one_is_warned_of(server: EchoServer) -> None:
    load(server, "fragile", slow_seconds=0.05, settings={"seconds": 0.1})
    load(server, "response_filter")
    call(server, "POST", "infer", {"text": "abc", "max_tokens": 3}, **{"X-Request-ID": "plugged-1"})
    plugins = recorded(server, "plugged-1")
    assert plugins["fragile"]["seconds"] >= 0.1
    assert plugins["fragile"]["failures"] == 0
    (line,) = [line for line in server.log().splitlines() if "Plugin fragile took longer than expected" in line]
    entry = json.loads(line[line.index("{") :])
    assert (entry["component"], entry["level"]) == ("plugin_manager", "warning")
    assert entry["metadata"]["threshold"] == 0.05
    assert entry["metadata"]["execution_time"] >= 0.1


def test_a_plugin_that_observes_sees_requests_and_how_they_ended(server: EchoServer, tmp_path: Path) -> None:
    file = tmp_path / "witnessed"
    load(server, "witness", settings={"file": str(file), "max_tokens": 3}, priority=1)
    rule = {"words": ["zebra"], "action": "block"}
    load(server, "response_filter", settings={"rules": [rule]})
    assert infer(server, "a b c d e").json()["result"]["tokens_generated"] == 3
    assert stream(server, "a b c d e")[-1]["final_text"]
    infer(server, "a zebra b")

    def witnessed() -> list[dict[str, Any]]:
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    wait_until(lambda: len(witnessed()) == 3)
    whole, streamed, blocked = sorted(witnessed(), key=lambda seen: (seen["state"], seen["request"]["stream"]))
    assert (whole["state"], whole["finish_reason"], whole["completion_tokens"]) == ("completed", "length", 3)
    assert (streamed["request"]["kind"], streamed["text"]) == ("stream_infer", whole["text"])
    assert (blocked["state"], blocked["error_code"], blocked["text"]) == ("failed", "CONTENT_BLOCKED", "")
    assert whole["request"]["max_tokens"] == 3
    call(server, "DELETE", "plugins/witness/unload")


@pytest.mark.parametrize("where", ["crash-in", "crash-out"])
def test_a_failure_fails_open_or_closed_as_configured(server: EchoServer, where: str) -> None:
    load(server, "fragile", on_error="open")
    assert infer(server, where).json()["result"]["generated_text"].startswith(where)
    call(server, "PUT", "plugins/fragile/config", {"config": {"on_error": "closed"}})
    time.sleep(FOLLOWED_SECONDS)
    answer = infer(server, where)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "INFERENCE_FAILED")
    assert answer.json()["error"]["details"] == {"plugin": "fragile"}
    assert infer(server, "fine").status_code == 200


async def test_the_circuit_opens_is_shown_and_closes_again(server: EchoServer) -> None:
    with override_settings(REDIS_URL=server.redis_url):
        seen = (await read_events(channels=PLUGIN_EVENTS))[-1:]
    load(server, "fragile", max_failures=2, retry_seconds=1.5)
    for _ in range(3):
        assert infer(server, "crash-in").status_code == 200
    wait_until(lambda: circuit(server)["state"] != "closed", 2)
    assert circuit(server)["last_error"].startswith("ValueError at faulty.py:")
    assert "crash-in" not in server.log()
    await asyncio.sleep(1.5)
    assert circuit(server)["state"] == "half_open"
    assert infer(server, "fine").status_code == 200
    wait_until(lambda: circuit(server)["state"] == "closed", 2)
    with override_settings(REDIS_URL=server.redis_url):
        events = await read_events(seen[0].id if seen else "0-0", channels=PLUGIN_EVENTS)
    kinds = [type(found.event) for found in events if getattr(found.event, "plugin_id", "") == "fragile"]
    assert kinds[0] is PluginLoaded
    assert PluginError in kinds


@pytest.mark.parametrize("where", ["hang-in", "hang-out"])
async def test_a_plugin_that_hangs_is_switched_off_and_the_server_goes_on(server: EchoServer, where: str) -> None:
    load(server, "fragile", timeout_seconds=0.5, max_failures=3, retry_seconds=0.1)
    async with server.client() as client:
        for _ in range(2):  # the second time, nobody calls it any more
            bodies = ({"text": f"{where} {number}", "max_tokens": 12} for number in range(16))
            answers = await asyncio.gather(*(client.post("/infer", json=body) for body in bodies))
            assert [answer.status_code for answer in answers] == [200] * 16
            assert all(answer.json()["result"]["generated_text"].startswith(where) for answer in answers)
            wait_until(lambda: circuit(server)["state"] != "closed", 2)
        assert answers[0].elapsed.total_seconds() < 0.5
    assert circuit(server)["last_error"].startswith("it did not return within 0.5 s, in ")
    assert infer(server, "fine").status_code == 200  # though it was to be tried again: its calls still hang
    assert circuit(server)["state"] != "closed"

    assert call(server, "PUT", "plugins/fragile/config", {"config": {"on_error": "closed"}}).status_code == 200
    answer = infer(server, "fine")
    assert (answer.status_code, answer.json()["error"]["details"]) == (500, {"plugin": "fragile"})


def circuit(server: EchoServer) -> dict[str, Any]:
    found: dict[str, Any] = get(server, "plugins/fragile")["plugin"]["circuit"]
    return found


async def test_a_plugin_that_cannot_be_loaded_says_so(server: EchoServer) -> None:
    for plugin_id, why in (
        ("broken_setup", "no licence"),
        ("broken_import", "ModuleNotFoundError"),
        ("old", "version 0"),
    ):
        answer = call(server, "POST", f"plugins/{plugin_id}/load", {})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "PLUGIN_LOAD_FAILED")
        assert why in answer.json()["error"]["details"]["error"]
        assert get(server, f"plugins/{plugin_id}")["plugin"]["status"] != "loaded"
    with override_settings(REDIS_URL=server.redis_url):
        events = [found.event for found in await read_events(channels=PLUGIN_EVENTS)]
    told = [event.error for event in events if isinstance(event, PluginError) and event.plugin_id == "broken_setup"]
    assert told == ["RuntimeError while it was set up"]
    load(server, "shout")
    call(server, "DELETE", "plugins/shout/unload")
    with override_settings(REDIS_URL=server.redis_url):
        assert any(isinstance(found.event, PluginUnloaded) for found in await read_events(channels=PLUGIN_EVENTS))


def test_a_plugin_that_only_a_worker_cannot_load_is_not_loaded(server: EchoServer) -> None:
    answer = call(server, "POST", "plugins/picky/load", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "PLUGIN_LOAD_FAILED")
    assert answer.json()["error"]["details"]["error"] == "RuntimeError: not with this device"
    plugin = get(server, "plugins/picky")["plugin"]
    assert (plugin["status"], plugin["circuit"]["last_error"]) != ("loaded", "")
    listed = {plugin["id"]: plugin["status"] for plugin in get(server, "plugins")["plugins"]}
    assert listed["picky"] == "available"
    assert call(server, "POST", "plugins/picky/load", {"config": {"settings": {"fails": False}}}).status_code == 200


def test_a_plugin_runs_in_the_workers_once_its_load_is_answered(server: EchoServer) -> None:
    assert call(server, "POST", "plugins/shout/load", {"config": DEFAULTS}).status_code == 200
    assert infer(server, "abc").json()["result"]["generated_text"].isupper()


def test_prompts_and_answers_are_not_logged_when_plugins_fail(server: EchoServer) -> None:
    load(server, "fragile")
    infer(server, "crash-in marmalade")
    infer(server, "crash-out marmalade")
    assert "marmalade" not in server.log()
