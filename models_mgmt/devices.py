"""The compute devices of this host, found without loading torch, and how they share its cores."""

import os
import platform
import re
from pathlib import Path

import pynvml


def is_device(name: str) -> bool:
    return re.fullmatch(r"cpu|mps|cuda\d{1,3}", name) is not None


def discover_devices(configured: list[str] | None = None) -> list[str]:
    """The devices to start a worker on: those configured, else every CUDA GPU, else `mps`, else `cpu`."""
    if configured:
        return list(dict.fromkeys(configured))
    gpus = count_cuda_devices()
    if gpus:
        return [f"cuda{index}" for index in range(gpus)]
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return ["mps"]
    return ["cpu"]


def count_cuda_devices() -> int:
    """How many GPUs NVML sees that CUDA_VISIBLE_DEVICES does not hide."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        count = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0
    finally:
        pynvml.nvmlShutdown()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    chosen = [part.strip() for part in visible.split(",")]
    usable = chosen[: chosen.index("-1")] if "-1" in chosen else chosen
    return min(count, len([part for part in usable if part]))


def available_cores() -> int:
    """CPU cores this process may use: its affinity, cut by the container's quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def threads_per_worker(workers: int) -> int:
    """Compute threads for each of a host's workers; more in sum than there are cores would all but stop them."""
    return max(1, available_cores() // max(1, workers))
