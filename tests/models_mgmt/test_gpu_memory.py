"""What is known of GPUs' memory, through the real pynvml; in the driver's place is a small C library."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring.fake_nvml import build_fake_nvml, fake_environment
from tests.running_server import ROOT

MIB = 1024**2
READ = """
import json, os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llama_gpu_site.settings")
from models_mgmt.device_memory import bytes_taken, gpu_bytes_freed, gpu_bytes_used, measure
def pair(memory): return [memory.total_bytes, memory.free_bytes]
print(json.dumps({
    "devices": {name: pair(measure(name)) for name in ("cuda0", "cuda1", "cuda2")},
    "holding": pair(measure("cuda0", held_bytes=2 * 1024**3)),
    "used": gpu_bytes_used(["cuda0", "cuda1", "cuda0"]),
    "freed": gpu_bytes_freed(["cuda0"], before=gpu_bytes_used(["cuda0"]) + 1024**3),
    "taken": [bytes_taken(name, int(os.environ["ASKED_PID"])) for name in ("cuda0", "cuda1")],
}))
"""
FREE = [5300 * MIB, 6300 * MIB]
TOTAL = 24576 * MIB


@pytest.fixture(scope="module")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fake_nvml(tmp_path_factory.mktemp("nvml"))


def read(folder: Path, tmp_path: Path, *, visible: str = "", limit: str = "", **fake: object) -> dict[str, Any]:
    environment = fake_environment(folder, **fake) | {
        "ASKED_PID": str(os.getpid()),
        "LLAMA_GPU_DATA_DIR": str(tmp_path),
        "LLAMA_GPU_MAX_MEMORY": limit,
    }
    environment |= {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    done = subprocess.run(
        [sys.executable, "-c", READ], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_each_gpu_tells_what_it_has_and_what_is_free_and_one_that_is_not_there_has_none(
    fake_nvml: Path, tmp_path: Path
) -> None:
    found = read(fake_nvml, tmp_path)
    assert found["devices"] == {"cuda0": [TOTAL, FREE[0]], "cuda1": [TOTAL, FREE[1]], "cuda2": [0, 0]}
    assert found["used"] == 2 * TOTAL - sum(FREE)
    assert found["freed"] == 1024 * MIB
    assert found["taken"] == [0, 0]


@pytest.mark.parametrize("visible", ["1,0", "GPU-00000001,GPU-00000000"])
def test_gpus_are_numbered_as_cuda_numbers_the_visible_ones(fake_nvml: Path, tmp_path: Path, visible: str) -> None:
    found = read(fake_nvml, tmp_path, visible=visible)
    assert found["devices"] == {"cuda0": [TOTAL, FREE[1]], "cuda1": [TOTAL, FREE[0]], "cuda2": [0, 0]}


def test_a_lost_gpu_has_no_memory_to_give(fake_nvml: Path, tmp_path: Path) -> None:
    assert read(fake_nvml, tmp_path, lost=0)["devices"]["cuda0"] == [0, 0]


@pytest.mark.parametrize(
    ("limit", "allowed", "free", "beside"),
    [("50%", TOTAL // 2, FREE[0], FREE[0]), ("4GB", 4096 * MIB, 4096 * MIB, 2048 * MIB)],
)
def test_a_limit_of_the_settings_counts_what_our_engines_hold(
    fake_nvml: Path, tmp_path: Path, limit: str, allowed: int, free: int, beside: int
) -> None:
    found = read(fake_nvml, tmp_path, limit=limit)
    assert found["devices"]["cuda0"] == [allowed, free]
    assert found["holding"] == [allowed, beside]


def test_what_an_engine_has_taken_of_a_gpu_is_known_while_it_loads(fake_nvml: Path, tmp_path: Path) -> None:
    assert read(fake_nvml, tmp_path, process=os.getpid())["taken"] == [700 * MIB, 0]
