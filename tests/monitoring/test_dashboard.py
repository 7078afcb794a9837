"""The dashboard and the alerts of the documentation ask for metrics that there are, by labels that they have."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.gpus import Gpu
from monitoring.prometheus import Now, families
from tests.running_server import ROOT

FOLDER: Path = ROOT / "docs" / "monitoring"
NAME = re.compile(r"\bllama_gpu_\w+")
SELECTED = re.compile(r"(llama_gpu_\w+)\{([^}]*)\}")
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


def served() -> set[str]:
    """The names of all series."""
    found = families(Now(counted={}, workers=(), queued={}, scheduler_lives=True, gpus=(("host", Gpu(id=0)),)))
    return {family.name + suffix for family in found for suffix in _SUFFIXES[family.type]}


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    return loaded


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def asked_for() -> list[str]:
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    expressions += [variable["query"]["query"] for variable in dashboard()["templating"]["list"][1:]]
    return expressions + [rule["expr"] for rule in alerts()]


@pytest.mark.parametrize("expression", asked_for())
def test_every_expression_asks_for_what_is_served(expression: str) -> None:
    assert set(NAME.findall(expression)) <= served()
    assert expression.count("(") == expression.count(")")
    for _, labels in SELECTED.findall(expression):
        assert re.fullmatch(r'(model=~"\$model"|state="failed"|,)+', labels)


def test_the_dashboard_leaves_nothing_out() -> None:
    shown = {name for expression in asked_for() for name in NAME.findall(expression)}
    shown = {re.sub("_(bucket|count|sum)$", "", name) for name in shown}
    every = {re.sub("_(bucket|count|sum)$", "", name) for name in served()}
    assert every - shown == {"llama_gpu_build_info", "llama_gpu_http_request_duration_seconds"}


def test_every_metric_is_described() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    missing = {name for name in served() if re.sub("_(bucket|count|sum)$", "", name) not in page}
    assert not missing


def test_panels_and_alerts_have_names_of_their_own() -> None:
    for names in ([panel["title"] for panel in dashboard()["panels"]], [rule["alert"] for rule in alerts()]):
        assert len(set(names)) == len(names)
