"""docs/settings.md names every environment variable that the code reads, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = r"LLAMA_GPU_[A-Z_]+|DATABASE_URL|REDIS_URL"
APPS = ("accounts", "common", "engine", "inference", "llama_gpu_site", "models_mgmt", "monitoring", "plugins_app")


def names_read() -> set[str]:
    reading = re.compile(rf'(?:read_\w+|environ\.get|getenv)\(\s*"({NAME})"')
    return {name for app in APPS for path in (ROOT / app).rglob("*.py") for name in reading.findall(path.read_text())}


def names_described() -> set[str]:
    return set(re.findall(rf"^\| `({NAME})` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE))


def test_every_variable_that_is_read_is_described() -> None:
    assert names_read() - names_described() == set()


def test_every_variable_that_is_described_is_read() -> None:
    assert names_described() - names_read() == set()


def test_none_is_described_twice() -> None:
    rows = re.findall(rf"^\| `({NAME})` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows))
