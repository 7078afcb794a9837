"""Metrics, traces and timelines of a whole server with two web processes, as those who watch it see them."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.inference.conftest import EchoServer, wait_until
from tests.monitoring.otlp_collector import Collector, Received, otlp_collector
from tests.running_server import ROOT, running_server
from tests.server_keys import make_keys

WEB = {"auth", "prepare"}
WORKER = ["dispatch", "plugins", "admission", "queue", "prefill", "decode", "delivery"]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with otlp_collector() as running:
        yield running


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[EchoServer]:
    """Two web processes; 100 tokens a second and request; traces go to the collector at once."""
    with running_server(
        tmp_path_factory.mktemp("watched"),
        LLAMA_GPU_DEFAULT_MODEL="echo",
        LLAMA_GPU_ECHO_DELAY="0.01",
        LLAMA_GPU_WEB_PROCESSES="2",
        LLAMA_GPU_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="100",
    ) as running:
        yield EchoServer(running)


def scraped(server: EchoServer, name: str, **labels: str) -> dict[tuple[str, ...], float]:
    """A metric's samples with these labels, by the other labels' values. A new connection: any web process answers."""
    answer = httpx.get(f"{server.url}/metrics", headers=server.headers)
    assert answer.status_code == 200
    return {
        tuple(value for key, value in sorted(sample.labels.items()) if key not in labels): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    }


def total(server: EchoServer, name: str, **labels: str) -> float:
    return sum(scraped(server, name, **labels).values())


# ---------------------------------------------------------------- metrics


def test_every_web_process_tells_the_figures_of_all(watched: EchoServer) -> None:
    def figures() -> tuple[float, float]:
        requests = total(watched, "llama_gpu_inference_requests_total", kind="batch_infer", state="completed")
        return requests, total(watched, "llama_gpu_http_requests_total", route="/api/v1/batch_infer", code="200")

    requests, answers = figures()
    for _ in range(12):
        body = {"inputs": [{"text": "a b"}, {"text": "c"}], "max_tokens": 3}
        assert watched.post("batch_infer", body).status_code == 200

    wait_until(lambda: figures() == (requests + 24, answers + 12))
    assert {figures() for _ in range(20)} == {(requests + 24, answers + 12)}


def test_tokens_and_times_are_those_of_the_requests(watched: EchoServer) -> None:
    names = ("prompt_tokens_total", "completion_tokens_total", "inter_token_seconds_count", "inter_token_seconds_sum")
    names += ("time_to_first_token_seconds_count", "inference_duration_seconds_count", "batch_size_count")
    before = {name: total(watched, f"llama_gpu_{name}", model="echo") for name in names}
    watched.post("infer", {"text": "a b c d", "max_tokens": 21})

    def gained() -> dict[str, float]:
        return {name: total(watched, f"llama_gpu_{name}", model="echo") - before[name] for name in names}

    wait_until(lambda: gained()["completion_tokens_total"] > 0 and gained()["inter_token_seconds_count"] > 0)
    figures = gained()
    assert (figures["prompt_tokens_total"], figures["completion_tokens_total"]) == (4, 21)
    assert figures["inter_token_seconds_count"] == 20
    assert 20 * 0.01 <= figures["inter_token_seconds_sum"] < 20 * 0.2
    assert figures["time_to_first_token_seconds_count"] == figures["inference_duration_seconds_count"] == 1
    assert figures["batch_size_count"] >= 21


def test_failures_are_counted_by_their_code(watched: EchoServer) -> None:
    before = total(watched, "llama_gpu_inference_errors_total", code="INFERENCE_FAILED")
    watched.post("infer", {"text": "[[fail]]"})
    wait_until(lambda: total(watched, "llama_gpu_inference_errors_total", code="INFERENCE_FAILED") == before + 1)


def test_the_gauges_are_those_of_the_workers(watched: EchoServer) -> None:
    assert scraped(watched, "llama_gpu_model_loaded", model="echo", device="cpu").values()
    assert total(watched, "llama_gpu_worker_up") == 1
    assert total(watched, "llama_gpu_device_memory_total_bytes") > 2**20
    wait_until(lambda: total(watched, "llama_gpu_scheduler_up") == 1)
    with httpx.stream(
        "POST",
        f"{watched.url}/api/v1/stream_infer",
        json={"text": "a " * 50, "max_tokens": 2000},
        headers=watched.headers,
    ):
        wait_until(lambda: total(watched, "llama_gpu_requests_running", model="echo") == 1)
        assert total(watched, "llama_gpu_queue_requests", model="echo") == 1
        assert total(watched, "llama_gpu_kv_cache_usage_ratio", model="echo") > 0
    wait_until(lambda: total(watched, "llama_gpu_queue_requests", model="echo") == 0)


def test_plugins_times_are_counted(watched: EchoServer) -> None:
    url = f"{watched.url}/api/v1/plugins/response_filter"
    assert httpx.post(f"{url}/load", json={}, headers=watched.headers).status_code == 200
    try:
        wait_until(lambda: watched.post("infer", {"text": "a", "max_tokens": 2}).status_code == 200)
        wait_until(
            lambda: (
                watched.post("infer", {"text": "a", "max_tokens": 2}).status_code == 200
                and total(watched, "llama_gpu_plugin_calls_total", plugin="response_filter") > 0
            )
        )
        assert total(watched, "llama_gpu_plugin_seconds_total", plugin="response_filter") > 0
    finally:
        httpx.delete(f"{url}/unload", headers=watched.headers)


# ---------------------------------------------------------------- traces


def traced(watched: EchoServer, collector: Collector, path: str, body: Any, spans: int) -> list[Received]:
    """The spans of a request that comes with a trace, once there are so many."""
    trace_id, parent = secrets.token_hex(16), secrets.token_hex(8)
    answer = watched.post(path, body, traceparent=f"00-{trace_id}-{parent}-01")
    assert answer.status_code in {200, 500}
    wait_until(lambda: len(collector.trace(trace_id)) >= spans)
    found = collector.trace(trace_id)
    (root,) = [span for span in found if span.parent_id == parent]
    assert root.name == f"POST /api/v1/{path}"
    return [root, *(span for span in found if span is not root)]


def children(spans: list[Received], of: Received) -> list[Received]:
    return [span for span in spans if span.parent_id == of.span_id]


@pytest.mark.parametrize("path", ["infer", "stream_infer"])
def test_a_request_is_one_tree_through_both_processes(watched: EchoServer, collector: Collector, path: str) -> None:
    root, *others = traced(watched, collector, path, {"text": "a b c", "max_tokens": 11}, spans=11)

    assert root.attributes["http.response.status_code"] == 200
    below = {span.name: span for span in children(others, root)}
    assert below.keys() == WEB | {"inference"}
    inference = below["inference"]
    assert inference.attributes["gen_ai.usage.output_tokens"] == 11
    assert inference.attributes["gen_ai.request.model"] == "echo"
    stages = children(others, inference)
    assert [span.name for span in stages] == WORKER
    for earlier, later in pairwise(stages):
        assert later.start == pytest.approx(earlier.end, abs=1e-6)
    decode = next(span for span in stages if span.name == "decode")
    assert decode.end - decode.start >= 10 * 0.01
    assert root.start - 0.005 <= below["auth"].start <= stages[0].start
    assert stages[-1].end <= root.end + 0.05
    assert root.resource["process.pid"] != inference.resource["process.pid"]


def test_each_item_of_a_batch_has_its_spans(watched: EchoServer, collector: Collector) -> None:
    body = {"inputs": [{"text": "a"}, {"text": "[[fail]]"}], "max_tokens": 2}
    root, *_ = traced(watched, collector, "batch_infer", body, spans=3)
    wait_until(lambda: sum(span.name == "inference" for span in collector.trace(root.trace_id)) == 2)
    items = {
        span.attributes["llama_gpu.item"]: span for span in collector.trace(root.trace_id) if span.name == "inference"
    }
    assert (items[0].is_error, items[1].is_error) == (False, True)
    assert items[1].attributes["error.type"] == "INFERENCE_FAILED"


def test_a_request_without_a_trace_begins_one(watched: EchoServer, collector: Collector) -> None:
    watched.post("infer", {"text": "a", "max_tokens": 2}, **{"X-Request-ID": "begins-one"})
    wait_until(lambda: len(collector.of_request("begins-one")) == 2)
    assert len({span.trace_id for span in collector.of_request("begins-one")}) == 1


def test_who_began_a_trace_decides_whether_it_is_kept(watched: EchoServer, collector: Collector) -> None:
    dropped, kept = secrets.token_hex(16), secrets.token_hex(16)
    for trace_id, flag in ((dropped, "00"), (kept, "01")):
        watched.post("infer", {"text": "a"}, traceparent=f"00-{trace_id}-{secrets.token_hex(8)}-{flag}")
    wait_until(lambda: len(collector.trace(kept)) >= 11)
    assert collector.trace(dropped) == []


def test_the_setting_without_the_extra_stops_the_start_with_the_remedy(tmp_path: Path) -> None:
    hidden = tmp_path / "opentelemetry"
    hidden.mkdir()
    (hidden / "__init__.py").touch()  # stands before the installed one, and has no exporter
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "LLAMA_GPU_DATA_DIR": str(tmp_path / "data"),
        "LLAMA_GPU_OTLP_ENDPOINT": "http://127.0.0.1:4318",
    }
    command = [sys.executable, "manage.py", "up"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "LLAMA_GPU_OTLP_ENDPOINT is set, but OpenTelemetry is not installed" in ended.stderr
    assert "pip install -c constraints.txt '.[otel]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_span_holds_a_word_of_the_request(watched: EchoServer, collector: Collector) -> None:
    secret = "zebra-marmalade"
    spans = traced(watched, collector, "infer", {"text": secret, "system": secret, "max_tokens": 3}, spans=11)
    assert secret not in json.dumps([[span.name, span.attributes] for span in spans])


# ---------------------------------------------------------------- one request's timeline


def timeline(server: EchoServer, request_id: str, **headers: str) -> dict[str, Any]:
    def answer() -> httpx.Response:
        return httpx.get(f"{server.url}/api/v1/requests/{request_id}", headers={**server.headers, **headers})

    wait_until(lambda: answer().status_code == 200)
    found: dict[str, Any] = answer().json()["request"]
    return found


def test_a_request_tells_where_its_time_went(watched: EchoServer) -> None:
    watched.post("infer", {"text": "a b c", "max_tokens": 21}, **{"X-Request-ID": "timed-1"})

    request = timeline(watched, "timed-1")
    assert (request["kind"], request["model"], request["user"], request["state"]) == (
        "infer",
        "echo",
        "admin",
        "completed",
    )
    (item,) = request["items"]
    assert [stage["stage"] for stage in item["timeline"]] == ["auth", "prepare", *WORKER]
    seconds = {stage["stage"]: stage["seconds"] for stage in item["timeline"]}
    assert seconds["decode"] >= 20 * 0.01
    assert seconds["auth"] > 0
    assert item["total_time"] == pytest.approx(sum(seconds.values()), abs=1e-4)
    assert item["time_to_first_token"] == pytest.approx(
        item["total_time"] - seconds["decode"] - seconds["delivery"], abs=1e-4
    )
    assert (item["prompt_tokens"], item["tokens_generated"], item["finish_reason"]) == (3, 21, "length")


def test_a_request_that_waits_shows_it_as_queue(watched: EchoServer) -> None:
    waits: dict[int, float] = {}
    body = {"inputs": [{"text": "a", "max_tokens": 30} for _ in range(40)]}  # the engine runs 32 at once
    assert watched.post("batch_infer", body, **{"X-Request-ID": "timed-2"}).status_code == 200
    request = timeline(watched, "timed-2")
    for item in request["items"]:
        waits[item["item"]] = next(stage["seconds"] for stage in item["timeline"] if stage["stage"] == "queue")
    assert len(request["items"]) == 40
    assert sum(seconds > 0.2 for seconds in waits.values()) == 8


def test_a_cancelled_request_ends_in_the_stage_that_it_had_come_to(watched: EchoServer) -> None:
    body = {"text": "a", "max_tokens": 6000, "timeout": 1}
    watched.post("infer", body, **{"X-Request-ID": "timed-3"})
    request = timeline(watched, "timed-3")
    (item,) = request["items"]
    assert (request["state"], item["cancel_reason"]) == ("cancelled", "timeout")
    assert item["timeline"][-1]["stage"] == "decode"
    assert item["timeline"][-1]["seconds"] > 0.5


def test_one_sees_ones_own_requests_and_no_others(watched: EchoServer) -> None:
    mine, others = make_keys(
        watched.running_server, {"owner": "watcher", "name": "a"}, {"owner": "other-watcher", "name": "b"}
    )
    body = {"text": "a", "max_tokens": 2}
    watched.post("infer", body, **{"X-Request-ID": "timed-4", "Authorization": f"Bearer {mine}"})
    assert timeline(watched, "timed-4", Authorization=f"Bearer {mine}")["user"] == "watcher"
    assert timeline(watched, "timed-4")["user"] == "watcher"
    address = f"{watched.url}/api/v1/requests/timed-4"
    stranger = httpx.get(address, headers={"Authorization": f"Bearer {others}"})
    assert (stranger.status_code, stranger.json()["error"]["code"]) == (404, "NOT_FOUND")
    assert httpx.get(address).status_code == 401


def test_an_id_used_again_tells_of_its_last_use(watched: EchoServer) -> None:
    for tokens in (2, 5):
        watched.post("infer", {"text": "a", "max_tokens": tokens}, **{"X-Request-ID": "timed-5"})
    wait_until(lambda: timeline(watched, "timed-5")["items"][0]["tokens_generated"] == 5)
    assert len(timeline(watched, "timed-5")["items"]) == 1
