"""A bad value in the environment stops the start with a sentence that names the variable."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from llama_gpu_site.environment import (
    read_bool,
    read_float,
    read_int,
    read_list,
    read_path,
    read_str,
)

ROOT = Path(__file__).parents[2]


def test_an_unset_variable_is_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("X", raising=False)
    assert read_int("X", 5, minimum=1) == 5
    assert read_float("X", 0.5, minimum=0) == 0.5
    assert read_str("X", "a") == "a"
    assert read_bool("X", default=True) is True
    assert read_list("X") == []


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X", "  ")
    assert read_int("X", 5, minimum=1) == 5
    assert read_str("X", "a", choices=("a", "b")) == "a"


def test_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X", " 7 ")
    assert read_int("X", 5, minimum=1) == 7
    monkeypatch.setenv("X", "a, b,,c")
    assert read_list("X") == ["a", "b", "c"]
    monkeypatch.setenv("X", "No")
    assert read_bool("X", default=True) is False
    monkeypatch.setenv("X", "~/models")
    assert read_path("X", Path("/tmp")) == Path.home() / "models"


@pytest.mark.parametrize("value", ["zero", "1.5", "0", "9999", "nan"])
def test_a_number_out_of_its_range_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("X", value)
    with pytest.raises(ImproperlyConfigured, match=r"X is .*; set it to a whole number from 1 to 100"):
        read_int("X", 5, minimum=1, maximum=100)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "much"])
def test_a_float_out_of_its_range_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("X", value)
    with pytest.raises(ImproperlyConfigured, match=r"X is .*; set it to a number"):
        read_float("X", 5, minimum=0)


def test_a_text_that_is_no_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X", "c")
    with pytest.raises(ImproperlyConfigured, match="X is 'c'; set it to one of: 'a', 'b'"):
        read_str("X", "a", choices=("a", "b"))


def test_a_switch_that_is_neither_on_nor_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X", "perhaps")
    with pytest.raises(ImproperlyConfigured, match="set it to 1 or 0"):
        read_bool("X", default=False)


def start(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "up"],
        cwd=ROOT,
        env={**os.environ, "LLAMA_GPU_DATA_DIR": str(tmp_path / "data"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_bad_value_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    done = start(tmp_path, LLAMA_GPU_PORT="eighty")
    assert done.returncode == 1
    assert done.stderr == "Settings: LLAMA_GPU_PORT is 'eighty'; set it to a whole number from 1 to 65535.\n"


def test_a_data_folder_that_can_not_be_made_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("this is a file")
    done = start(tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "can't be used" in done.stderr


def test_a_short_preset_key_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    done = start(tmp_path, LLAMA_GPU_API_KEY="short", LLAMA_GPU_PORT="5999")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "LLAMA_GPU_API_KEY" in done.stderr


def test_a_redis_that_does_not_answer_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    done = start(tmp_path, REDIS_URL="redis://:secret@127.0.0.1:1/0", LLAMA_GPU_PORT="5999")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "REDIS_URL" in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysecret"),
        ("DATABASE_URL", "mysql://u:mysecret@h/d"),
        ("REDIS_URL", "http://mysecret"),
        ("DATABASE_URL", "postgres://u:mysecret@127.0.0.1:1/d"),
    ],
)
def test_an_address_that_is_of_no_use_stops_the_start_with_one_sentence(tmp_path: Path, name: str, value: str) -> None:
    done = start(tmp_path, **{name: value})
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert name in done.stderr
    assert "mysecret" not in done.stderr


def test_a_device_that_is_none_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    done = start(tmp_path, LLAMA_GPU_DEVICES="cpu,gpu0")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "LLAMA_GPU_DEVICES contains 'gpu0'" in done.stderr
