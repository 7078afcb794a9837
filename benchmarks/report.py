"""Medians, tables and the files under benchmarks/results/."""

import datetime as dt
import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "transformers", "xllamacpp", "Django", "celery", "daphne")

Row = dict[str, Any]


def median(values: Iterable[float]) -> float:
    return statistics.median(list(values))


def machine() -> Row:
    """What a figure depends on."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"### {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


class Report:
    """Collects rows and tables of one run; `save` writes them as NAME.json and NAME.md."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.tables: list[str] = []

    def add(self, title: str, columns: Sequence[str], cells: Sequence[Sequence[object]], rows: list[Row]) -> None:
        text = table(title, columns, cells)
        print("\n" + text, flush=True)
        self.tables.append(text)
        self.rows += rows

    def save(self, folder: Path, name: str) -> Path:
        """Write DATE-NAME.md and DATE-NAME.json."""
        about = machine()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{about['date']}-{name}"
        named = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        head = f"# {about['date']}, {about['cores']} cores of {about['cpu']}, Python {about['python']}\n\n{named}\n"
        path.with_suffix(".md").write_text("\n".join([head, *self.tables]))
        path.with_suffix(".json").write_text(json.dumps({**about, "rows": self.rows}, indent=1) + "\n")
        return path.with_suffix(".md")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
