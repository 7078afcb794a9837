"""`manage.py check --deploy`: clean where a server is set up for others, plain words where it is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.checks import run_checks
from pytest_django import Settings

ROOT = Path(__file__).parents[2]
PRODUCTION = {
    "LLAMA_GPU_TLS": "1",
    "LLAMA_GPU_TRUSTED_PROXIES": "10.0.0.1",
    "LLAMA_GPU_ALLOWED_HOSTS": "llama.example.com",
}


def check(data_dir: Path, **settings: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_GPU_")}
    environment |= {"LLAMA_GPU_DATA_DIR": str(data_dir), **settings}
    command = [sys.executable, "manage.py", "check", "--deploy"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_production_settings_are_clean(tmp_path: Path) -> None:
    assert "no issues" in check(tmp_path, **PRODUCTION)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"TLS": False}, "llama_gpu.W001"),
        ({"SESSION_COOKIE_SECURE": False}, "security.W010"),
        ({"TRUSTED_PROXIES": []}, "llama_gpu.W002"),
        ({"ALLOWED_HOSTS": ["*"]}, "llama_gpu.W003"),
        ({"ANONYMOUS_PERMISSION": "write"}, "llama_gpu.W004"),
        ({"DEBUG": True}, "security.W018"),
        ({"SECRET_KEY": "short"}, "security.W009"),
    ],
)
def test_what_is_not_fit_for_others_is_named(settings: Settings, changed: dict[str, object], complaint: str) -> None:
    fit = {"TLS": True, "SESSION_COOKIE_SECURE": True, "TRUSTED_PROXIES": ["10.0.0.1"]}
    for name, value in {**fit, **changed}.items():
        setattr(settings, name, value)
    found = run_checks(tags=["security"], include_deployment_checks=True)
    assert [message.id for message in found if not message.is_silenced()] == [complaint]


def test_a_secret_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    check(tmp_path)
    path = tmp_path / "secret_key"
    first = path.read_text()
    assert len(first) >= 50
    assert path.stat().st_mode & 0o077 == 0
    check(tmp_path)
    assert path.read_text() == first


def test_no_secret_key_can_be_committed() -> None:
    command = ["git", "check-ignore", "data/secret_key"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=20).returncode == 0
