"""How busy this host is, as psutil tells."""

import time
from pathlib import Path

import msgspec
import psutil
from django.conf import settings

_LOOPBACK = ("lo",)  # lo on Linux, lo0 on macOS


class HostFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A host as of now. `cpu_usage` in percent since the reading before, sizes in bytes, traffic in bytes a second.

    The disk is the one that models lie on.
    """

    cpu_usage: float
    cpu_cores: int
    memory_used: int
    memory_total: int
    disk_used: int
    disk_total: int
    network_rx: float
    network_tx: float

    @property
    def memory_usage(self) -> float:
        return percent(self.memory_used, self.memory_total)

    @property
    def disk_usage(self) -> float:
        return percent(self.disk_used, self.disk_total)


class HostReader:
    """Reads this host. What counts up is told as what came since the reading before, or since the reader was made."""

    def __init__(self) -> None:
        self._cpu = psutil.cpu_times()
        self._traffic = _traffic()

    def read(self) -> HostFigures:
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(_existing(settings.MODELS_DIR)))
        rx, tx = self._traffic_since()
        return HostFigures(
            cpu_usage=self._cpu_since(),
            cpu_cores=psutil.cpu_count() or 1,
            memory_used=int(memory.total - memory.available),
            memory_total=int(memory.total),
            disk_used=int(disk.used),
            disk_total=int(disk.used + disk.free),
            network_rx=rx,
            network_tx=tx,
        )

    def _cpu_since(self) -> float:
        before, now = self._cpu, psutil.cpu_times()
        self._cpu = now
        total = _busy(now) - _busy(before) + (_idle(now) - _idle(before))
        return percent(max(0.0, _busy(now) - _busy(before)), total)

    def _traffic_since(self) -> tuple[float, float]:
        (then, rx_then, tx_then), now = self._traffic, _traffic()
        self._traffic = now
        seconds = max(now[0] - then, 1e-3)
        return round(max(0, now[1] - rx_then) / seconds, 1), round(max(0, now[2] - tx_then) / seconds, 1)


def percent(part: float, whole: float) -> float:
    """With one digit; 0 of nothing."""
    return min(100.0, round(100 * part / whole, 1)) if whole > 0 else 0.0


def _idle(times: "psutil._ntuples.scputimes") -> float:
    return float(times.idle + getattr(times, "iowait", 0.0))


def _busy(times: "psutil._ntuples.scputimes") -> float:
    """All but idle; `guest` times are in those of `user` and `nice` already."""
    return float(sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)) - _idle(times)


def _traffic() -> tuple[float, int, int]:
    """The time, and the bytes received and sent by then, without what the host says to itself."""
    counters = psutil.net_io_counters(pernic=True)
    outward = [counted for name, counted in counters.items() if not name.startswith(_LOOPBACK)]
    return time.monotonic(), sum(c.bytes_recv for c in outward), sum(c.bytes_sent for c in outward)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that there is."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
