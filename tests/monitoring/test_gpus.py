"""GPUs are read through the real pynvml; in the driver's place is a small C library. Each reading is a process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring.fake_nvml import build_fake_nvml, fake_environment
from tests.running_server import ROOT

READ = """
import msgspec, sys
from monitoring.gpus import GpuReader
reader = GpuReader()
readings = [reader.read() for _ in range(2)]
sys.stdout.buffer.write(msgspec.json.encode([readings[-1], [gpu.memory_percent for gpu in readings[-1]]]))
"""
LOSE_THE_DRIVER = """
import os, pathlib, sys
from monitoring.gpus import GpuReader
gone = pathlib.Path(os.environ["FAKE_NVML_FILE"])
reader, counts = GpuReader(), []
for exists in (False, True, False):
    gone.touch() if exists else gone.unlink(missing_ok=True)
    counts.append(len(reader.read()))
print(counts)
"""


@pytest.fixture(scope="session")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fake_nvml(tmp_path_factory.mktemp("nvml"))


def run(program: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )


def read(folder: Path, **settings: object) -> tuple[list[dict[str, Any]], list[float | None], str]:
    done = run(READ, fake_environment(folder, **settings))
    gpus, percents = json.loads(done.stdout)
    return gpus, percents, done.stderr


def test_it_tells_of_every_gpu(fake_nvml: Path) -> None:
    gpus, percents, _ = read(fake_nvml)
    assert gpus[0] == {
        "id": 0,
        "status": "ok",
        "name": "NVIDIA RTX 4090",
        "uuid": "GPU-00000000",
        "driver_version": "535.104.12",
        "cuda_version": "12.2",
        "memory_total": 24576,
        "memory_used": 19276,
        "memory_free": 5300,
        "utilization": 89,
        "temperature": 72,
        "power_usage": 380,
        "power_limit": 450,
    }
    assert [(gpu["id"], gpu["utilization"], gpu["temperature"]) for gpu in gpus] == [(0, 89, 72), (1, 76, 68)]
    assert percents == [78.4, 74.4]


def test_one_that_is_lost_is_told_of_and_hides_no_other(fake_nvml: Path) -> None:
    gpus, percents, complaints = read(fake_nvml, lost=0)
    assert (gpus[0]["status"], gpus[0]["utilization"], gpus[0]["memory_used"]) == ("lost", None, None)
    assert (gpus[1]["status"], gpus[1]["utilization"]) == ("ok", 76)
    assert percents == [None, 74.4]
    assert complaints.count("GPU 0 can't be read") == 1, "it is said once, not at every reading"


def test_what_one_refuses_to_tell_is_null(fake_nvml: Path) -> None:
    gpus, _, complaints = read(fake_nvml, refuses=1)
    refused = ("memory_total", "memory_used", "memory_free", "utilization", "power_usage", "power_limit")
    assert [gpus[1][name] for name in refused] == [None] * len(refused)
    assert (gpus[1]["status"], gpus[1]["temperature"]) == ("ok", 68)
    assert None not in gpus[0].values()
    assert not complaints


def test_a_driver_without_gpus_has_none(fake_nvml: Path) -> None:
    assert read(fake_nvml, gpus=0)[0] == []


def test_without_nvml_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("this is no library, wherever another one lies")
    gpus, _, complaints = read(tmp_path)
    assert gpus == []
    assert not complaints


def test_a_driver_that_was_reloaded_is_read_again(fake_nvml: Path, tmp_path: Path) -> None:
    done = run(LOSE_THE_DRIVER, fake_environment(fake_nvml, file=tmp_path / "gone"))
    assert done.stdout.strip() == "[2, 0, 2]"
