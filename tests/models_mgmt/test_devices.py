"""Devices are found without torch, and a host's workers share its cores."""

import pynvml
import pytest

from models_mgmt import devices
from models_mgmt.devices import discover_devices, is_device, threads_per_worker


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with four GPUs, as NVML would tell."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 4)


@pytest.fixture
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)


@pytest.mark.usefixtures("gpus")
def test_every_gpu_gets_a_worker() -> None:
    assert discover_devices() == ["cuda0", "cuda1", "cuda2", "cuda3"]


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("visible", "count"), [("", 0), ("-1", 0), ("2", 1), ("0,1", 2), ("1,-1,2", 1), ("0,1,2,3,4", 4)]
)
def test_hidden_gpus_get_none(monkeypatch: pytest.MonkeyPatch, visible: str, count: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.count_cuda_devices() == count


@pytest.mark.usefixtures("no_gpus")
@pytest.mark.parametrize(
    ("system", "machine", "found"),
    [("Linux", "x86_64", "cpu"), ("Darwin", "arm64", "mps"), ("Darwin", "x86_64", "cpu")],
)
def test_without_gpus_there_is_one_device(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, found: str
) -> None:
    monkeypatch.setattr(devices.platform, "system", lambda: system)
    monkeypatch.setattr(devices.platform, "machine", lambda: machine)
    assert discover_devices() == [found]


@pytest.mark.usefixtures("gpus")
def test_configured_devices_are_taken_as_they_are() -> None:
    assert discover_devices(["cpu", "cuda1", "cpu"]) == ["cpu", "cuda1"]


@pytest.mark.parametrize(
    ("name", "valid"), [("cpu", True), ("mps", True), ("cuda12", True), ("cuda", False), ("gpu0", False)]
)
def test_names_of_devices(name: str, valid: bool) -> None:
    assert is_device(name) is valid


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_cores", lambda: 8)
    assert [threads_per_worker(workers) for workers in (0, 1, 3, 8, 20)] == [8, 8, 2, 1, 1]
