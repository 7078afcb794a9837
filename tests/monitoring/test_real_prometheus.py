"""Prometheus itself, where it is installed: it scrapes a server, knows every expression, and raises every alert."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import free_port
from tests.inference.conftest import wait_until
from tests.monitoring.test_dashboard import FOLDER, alerts, dashboard
from tests.running_server import RunningServer

ALERTS = FOLDER / "alerts.yml"
MODEL = {"model": "tiny"}
GPU = {"host": "box", "gpu": "0", "name": "H100"}

# What raises each alert: its series by the minute, and the labels that it then has.
RAISED: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "LlamaGpuDown": ({'up{job="llama-gpu"}': "0x60"}, {"job": "llama-gpu"}),
    "LlamaGpuNoWorker": ({}, {}),
    "LlamaGpuSchedulerDown": ({"llama_gpu_scheduler_up": "0x60"}, {}),
    "LlamaGpuModelNotLoaded": ({'llama_gpu_model_loaded{model="tiny",host="box",device="cpu"}': "0x60"}, MODEL),
    "LlamaGpuErrors": (
        {
            'llama_gpu_inference_requests_total{model="tiny",kind="infer",state="failed"}': "0+6x60",
            'llama_gpu_inference_requests_total{model="tiny",kind="infer",state="completed"}': "0+94x60",
        },
        MODEL,
    ),
    "LlamaGpuSlowFirstToken": (
        {
            'llama_gpu_time_to_first_token_seconds_bucket{model="tiny",le="5"}': "0+90x60",
            'llama_gpu_time_to_first_token_seconds_bucket{model="tiny",le="10"}': "0+100x60",
            'llama_gpu_time_to_first_token_seconds_bucket{model="tiny",le="+Inf"}': "0+100x60",
        },
        MODEL,
    ),
    "LlamaGpuSlowTokens": (
        {
            'llama_gpu_inter_token_seconds_bucket{model="tiny",le="0.25"}': "0+90x60",
            'llama_gpu_inter_token_seconds_bucket{model="tiny",le="0.5"}': "0+100x60",
            'llama_gpu_inter_token_seconds_bucket{model="tiny",le="+Inf"}': "0+100x60",
        },
        MODEL,
    ),
    "LlamaGpuQueueFull": ({'llama_gpu_queue_full_total{model="tiny"}': "0+1x60"}, MODEL),
    "LlamaGpuKvCacheFull": (
        {'llama_gpu_kv_cache_usage_ratio{model="tiny",host="box",device="cpu"}': "0.97x60"},
        {**MODEL, "host": "box", "device": "cpu"},
    ),
    "LlamaGpuPluginFails": ({'llama_gpu_plugin_failures_total{plugin="filter"}': "0+1x60"}, {"plugin": "filter"}),
    "LlamaGpuGpuLost": ({'llama_gpu_gpu_lost{host="box",gpu="0",name="H100"}': "1x60"}, GPU),
    "LlamaGpuGpuHot": ({'llama_gpu_gpu_temperature_celsius{host="box",gpu="0",name="H100"}': "91x60"}, GPU),
}
# A server that is well, by the same series.
WELL = {
    'up{job="llama-gpu"}': "1x60",
    'llama_gpu_worker_up{host="box",device="cpu"}': "1x60",
    "llama_gpu_scheduler_up": "1x60",
    'llama_gpu_model_loaded{model="tiny",host="box",device="cpu"}': "1x60",
    'llama_gpu_inference_requests_total{model="tiny",kind="infer",state="failed"}': "0+1x60",
    'llama_gpu_inference_requests_total{model="tiny",kind="infer",state="completed"}': "0+99x60",
    'llama_gpu_time_to_first_token_seconds_bucket{model="tiny",le="5"}': "0+100x60",
    'llama_gpu_time_to_first_token_seconds_bucket{model="tiny",le="+Inf"}': "0+100x60",
    'llama_gpu_inter_token_seconds_bucket{model="tiny",le="0.25"}': "0+100x60",
    'llama_gpu_inter_token_seconds_bucket{model="tiny",le="+Inf"}': "0+100x60",
    'llama_gpu_queue_full_total{model="tiny"}': "3x60",
    'llama_gpu_kv_cache_usage_ratio{model="tiny",host="box",device="cpu"}': "0.9x60",
    'llama_gpu_plugin_failures_total{plugin="filter"}': "9x60",
    'llama_gpu_gpu_lost{host="box",gpu="0",name="H100"}': "0x60",
    'llama_gpu_gpu_temperature_celsius{host="box",gpu="0",name="H100"}': "70x60",
}


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool, which comes with Prometheus, is not installed")
    return found


@pytest.fixture(scope="module")
def prometheus(two_webs: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a Prometheus that scrapes the server once a second, and has the example alerts."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not installed")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    (folder / "key").write_text(two_webs.api_key)
    scrape = {
        "job_name": "llama-gpu",
        "authorization": {"credentials_file": str(folder / "key")},
        "static_configs": [{"targets": [two_webs.url.removeprefix("http://")]}],
    }
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [scrape],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    process = subprocess.Popen(command)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10) as client:
            wait_until(lambda: _value(client, 'up{job="llama-gpu"}') == 1.0)
            yield client
    finally:
        process.terminate()
        process.wait(10)


def _value(client: httpx.Client, expression: str) -> float | None:
    """The one value of an expression; None while there is none."""
    try:
        found = client.get("/query", params={"query": expression}).json()["data"]["result"]
    except (httpx.HTTPError, ValueError, KeyError):
        return None
    return float(found[0]["value"][1]) if found else None


def test_it_scrapes_what_was_counted(prometheus: httpx.Client, two_webs: RunningServer) -> None:
    query = 'sum(llama_gpu_inference_requests_total{model="echo",state="completed"})'
    before = _value(prometheus, query) or 0.0
    for _ in range(3):
        httpx.post(f"{two_webs.url}/api/v1/infer", json={"text": "a", "max_tokens": 2}, headers=two_webs.headers)
    wait_until(lambda: _value(prometheus, query) == before + 3)


def test_it_knows_every_expression_of_the_dashboard(prometheus: httpx.Client) -> None:
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    for expression in expressions:
        asked = expression.replace("$__rate_interval", "1m").replace("$model", ".*")
        answer = prometheus.get("/query", params={"query": asked}).json()
        assert answer["status"] == "success", (expression, answer)


def test_its_rules_are_well(prometheus: httpx.Client) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = prometheus.get("/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    wait_until(lambda: {rule["health"] for rule in rules()} == {"ok"})
    assert {rule["name"] for rule in rules()} == {rule["alert"] for rule in alerts()}


def test_promtool_finds_nothing_wrong_with_the_page(promtool: str, two_webs: RunningServer) -> None:
    page = httpx.get(f"{two_webs.url}/metrics", headers=two_webs.headers)
    assert page.status_code == 200
    checked = subprocess.run([promtool, "check", "metrics"], input=page.content, capture_output=True, timeout=60)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_each_alert_is_raised_by_its_trouble_and_by_nothing_else(promtool: str, tmp_path: Path) -> None:
    assert RAISED.keys() == {rule["alert"] for rule in alerts()}
    tests = [_case(WELL, {rule["alert"]: None for rule in alerts()})]
    tests += [_case(series, {name: labels}) for name, (series, labels) in RAISED.items()]
    file = tmp_path / "alerts_test.yml"
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "tests": tests}))  # JSON is YAML
    checked = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def _case(series: dict[str, str], raised: dict[str, dict[str, str] | None]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": "30m", "alertname": name, "exp_alerts": [] if labels is None else [_alert(name, labels)]}
            for name, labels in raised.items()
        ],
    }


def _alert(name: str, labels: dict[str, str]) -> dict[str, Any]:
    (rule,) = (rule for rule in alerts() if rule["alert"] == name)
    summary = re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], rule["annotations"]["summary"])
    return {
        "exp_labels": {**labels, **rule["labels"]},
        "exp_annotations": {"summary": summary.replace("{{ $value }}", "91")},
    }
