"""A whole server on a host with two GPUs, as its NVML says, one of which fails; looked at as an administrator would."""

from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from django.test import override_settings

from common.events import AnyEvent, GpuMetrics, InferenceStats, LogEvent, SystemMetrics, stream_of
from common.redis import sync_redis
from tests.inference.conftest import wait_until
from tests.monitoring.fake_nvml import build_fake_nvml
from tests.running_server import RunningServer, running_server

PROMPT = "a prompt that no log line repeats"


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("monitored")
    with running_server(
        folder,
        LLAMA_GPU_DEFAULT_MODEL="echo",
        LLAMA_GPU_DEVICES="cpu",
        LLAMA_GPU_SAMPLE_SECONDS="0.5",
        LLAMA_GPU_LOG_FORMAT="json",
        LD_LIBRARY_PATH=str(build_fake_nvml(folder)),
        FAKE_NVML_LOST="1",
    ) as server:
        for _ in range(3):
            ask(server)
        yield server


def ask(server: RunningServer) -> httpx.Response:
    body = {"text": PROMPT, "max_tokens": 5}
    return httpx.post(f"{server.url}/api/v1/infer", json=body, headers=server.headers, timeout=60).raise_for_status()


def read(server: RunningServer, what: str) -> dict[str, Any]:
    response = httpx.get(f"{server.url}/api/v1/system/{what}", headers=server.headers, timeout=30)
    body: dict[str, Any] = response.raise_for_status().json()
    return body


def test_its_gpus_are_listed(monitored: RunningServer) -> None:
    wait_until(lambda: read(monitored, "gpu")["gpu_count"] == 2)
    first, second = read(monitored, "gpu")["gpus"]
    assert (first["name"], first["memory_used"], first["utilization"]) == ("NVIDIA RTX 4090", 19276, 89)
    assert (second["status"], second["utilization"]) == ("lost", None)


def test_its_status_tells_of_the_lost_one(monitored: RunningServer) -> None:
    wait_until(lambda: read(monitored, "status")["statistics"]["total_requests"] >= 3)
    status = read(monitored, "status")
    assert (status["status"], status["services"]["inference_engine"]) == ("degraded", "degraded")
    assert status["system"]["gpu_usage"] == [89, None]
    assert status["system"]["gpu_memory"] == [78.4, None]
    assert status["statistics"]["requests_per_minute"] > 0
    assert len(status["system"]["hosts"]) == 1


def test_its_requests_are_in_the_metrics_at_once(monitored: RunningServer) -> None:
    def requests(of: str) -> float:
        columns = read(monitored, f"metrics?granularity=1m{of}")["metrics"]
        assert len(columns["timestamps"]) == 60
        return sum(number or 0 for number in columns["requests"])

    wait_until(lambda: requests("") >= 3)
    assert requests("&model=echo") == requests("&model=default") == requests("")


def test_its_log_has_lines_of_every_process_and_no_prompt(monitored: RunningServer) -> None:
    request_id = ask(monitored).json()["metadata"]["request_id"]
    wait_until(lambda: read(monitored, f"logs?request_id={request_id}")["filtered_entries"] > 0)
    (line,) = read(monitored, f"logs?request_id={request_id}")["logs"]
    assert (line["component"], line["process"], line["level"]) == ("inference_engine", "worker-cpu", "info")
    assert read(monitored, "logs?search=takes%20work")["filtered_entries"] >= 1
    everything = httpx.get(f"{monitored.url}/api/v1/system/logs?limit=1000&level=debug", headers=monitored.headers).text
    assert PROMPT not in everything
    assert monitored.api_key not in everything
    assert request_id in monitored.log(), "the same line is on stdout"


def test_it_publishes_what_it_reads(monitored: RunningServer) -> None:
    with override_settings(REDIS_URL=monitored.redis_url):
        for channel, kind in (
            ("system_metrics", SystemMetrics),
            ("gpu_metrics", GpuMetrics),
            ("inference_stats", InferenceStats),
            ("log_events", LogEvent),
        ):
            entries: Any = sync_redis().xrevrange(stream_of(channel), count=20)  # type: ignore[arg-type]
            events = [msgspec.json.decode(fields[b"e"], type=AnyEvent) for _, fields in entries]
            assert events, channel
            assert all(isinstance(event, kind) for event in events)
