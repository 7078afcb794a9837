"""What this process takes of its devices' memory, and how much is left: measured, never computed."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pynvml
import torch

from engine.memory import CUDA_CONTEXT

_SHARE = {"cpu": 0.9, "cuda": 0.95}  # of the free memory, that an engine may take
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def taken(device: torch.device) -> int:
    """Bytes that this process takes on a device. On the CPU that is its proportional share of all its pages."""
    if device.type == "cuda":
        return _taken_cuda(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:  # no Linux
        return int(psutil.Process().memory_full_info().uss)
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def free(device: torch.device) -> int:
    """Bytes that an engine may still take on a device; a little is left to others."""
    if device.type == "cuda":
        available: float = torch.cuda.mem_get_info(device)[0]
    else:
        available = min(psutil.virtual_memory().available, _container_memory())
    return int(available * _SHARE.get(device.type, 0.9))


@contextlib.contextmanager
def returned_at_once() -> Iterator[None]:
    """While a model is loaded, memory goes back to the system as it is freed: glibc would keep what lies between the
    weights for later. Afterwards it keeps what a step frees, as it does by default, since the next step wants it."""
    if not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None)
    adjustable = hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")  # not with musl
    if adjustable:
        libc.mallopt(_M_MMAP_THRESHOLD, 256 * 1024)
    try:
        yield
    finally:
        if adjustable:
            libc.malloc_trim(0)
            libc.mallopt(_M_MMAP_THRESHOLD, 32 * 1024**2)
            libc.mallopt(_M_TRIM_THRESHOLD, 64 * 1024**2)


def _taken_cuda(device: torch.device) -> int:
    """What the driver says of this process; where it doesn't know it (a container): what torch holds, and a context."""
    properties = torch.cuda.get_device_properties(device)
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid == psutil.Process().pid and process.usedGpuMemory:
                return int(process.usedGpuMemory)
    except (pynvml.NVMLError, AttributeError):
        pass
    return torch.cuda.memory_reserved(device) + CUDA_CONTEXT


def _container_memory() -> float:
    """What a container's limit (cgroup v2) leaves, in bytes; infinite without one."""
    folder = Path("/sys/fs/cgroup")
    try:
        return max(0.0, float((folder / "memory.max").read_text()) - float((folder / "memory.current").read_text()))
    except (OSError, ValueError):
        return float("inf")
