"""How much memory the devices of this host have and how much of it is free, measured."""

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import psutil
import pynvml
from django.conf import settings

from models_mgmt.memory_limit import parse_memory_limit

logger = logging.getLogger(__name__)

_CGROUP = Path("/sys/fs/cgroup")
_SETTLE_SECONDS = 3.0
_SETTLED_BYTES = 64 * 1024**2


class DeviceMemory(msgspec.Struct, frozen=True):
    """Bytes of one device. `total_bytes` is what may be used of it: with settings.MAX_MEMORY, less than there is."""

    total_bytes: int
    free_bytes: int


def measure(device: str, *, held_bytes: int = 0) -> DeviceMemory:
    """A device as of now; `held_bytes`: what our engines hold of it, which counts against settings.MAX_MEMORY."""
    total, free = _gpu(device) if device.startswith("cuda") else _host()
    if settings.MAX_MEMORY:
        limit = min(total, parse_memory_limit(settings.MAX_MEMORY).of(total))
        return DeviceMemory(limit, max(0, min(free, limit - held_bytes)))
    return DeviceMemory(total, free)


def process_bytes(pid: int) -> int:
    """What a process alone holds of the host's memory, so what its end gives back; 0 when it has ended."""
    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def bytes_taken(device: str, pid: int) -> int:
    """What a process has taken of a device by now, files that it only reads left out; 0 when nobody can tell.

    In a container the driver may not know our processes by their numbers.
    """
    if device.startswith("cuda"):
        return _gpu_process(device, pid)
    try:
        memory = psutil.Process(pid).memory_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return max(0, int(memory.rss) - int(getattr(memory, "shared", 0)))


def gpu_bytes_used(devices: Iterable[str]) -> int:
    """What is taken of these GPUs' memory, by whomever."""
    return sum(total - free for total, free in (_gpu(device) for device in set(devices)))


def gpu_bytes_freed(devices: Iterable[str], before: int) -> int:
    """How far the use of these GPUs has fallen since `before`, once the driver has taken back what a process held."""
    names = tuple(devices)
    deadline = time.monotonic() + _SETTLE_SECONDS
    freed, last = 0, -1
    while freed != last or (freed < _SETTLED_BYTES and time.monotonic() < deadline):
        last = freed
        time.sleep(0.1)
        freed = max(0, before - gpu_bytes_used(names))
        if time.monotonic() > deadline:
            break
    return freed


def _host() -> tuple[int, int]:
    """Total and available memory of this host, or of the container (cgroup v2) that we are in."""
    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        cached = _cgroup_stat("inactive_file")
    except (OSError, ValueError):
        return total, free
    return min(total, limit), max(0, min(free, limit - used + cached))


def _cgroup_stat(name: str) -> int:
    for line in (_CGROUP / "memory.stat").read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _gpu(device: str) -> tuple[int, int]:
    """Total and free memory of `cudaN`, as CUDA numbers the devices; zeros when NVML can't tell."""
    try:
        pynvml.nvmlInit()
        try:
            info = pynvml.nvmlDeviceGetMemoryInfo(_handle(int(device.removeprefix("cuda"))))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        logger.warning("the memory of %s can't be read: %s", device, error)
        return 0, 0
    return int(info.total), int(info.free)


def _gpu_process(device: str, pid: int) -> int:
    try:
        pynvml.nvmlInit()
        try:
            running = pynvml.nvmlDeviceGetComputeRunningProcesses(_handle(int(device.removeprefix("cuda"))))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return 0
    return sum(int(process.usedGpuMemory or 0) for process in running if process.pid == pid)


def _handle(index: int) -> "pynvml.c_nvmlDevice_t":
    """CUDA numbers only the devices that CUDA_VISIBLE_DEVICES lets through."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [part.strip() for part in visible.split(",")] if visible else []
    if not names:
        return pynvml.nvmlDeviceGetHandleByIndex(index)
    if index >= len(names):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
    name = names[index]
    return pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)
