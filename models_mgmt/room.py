"""The memory of one device, as its worker gives it to loads: each gets what no other load was promised."""

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from django.conf import settings

from common.byte_sizes import format_bytes
from common.errors import InsufficientMemory
from models_mgmt.device_memory import DeviceMemory
from models_mgmt.engine_pool import Say
from models_mgmt.engines import memory_details
from models_mgmt.models import Deployment, Model
from models_mgmt.presence import DeploymentReport, WorkerReport, live_workers

State = Deployment.State
_LOOK_SECONDS = 0.05


class _Others(NamedTuple):
    """Models that may give their room to another: `idle`, the least recently used first. `size`: bytes that these have
    of the device, and those in use, and those that are being unloaded."""

    idle: tuple[DeploymentReport, ...]
    size: int


class Room:
    """`reports` tells what this worker has, `memory` what its device has, and `evict` unloads an idle model and returns
    the bytes freed, None for one that has become busy. Its methods are called by many threads at once."""

    def __init__(
        self,
        worker: WorkerReport,
        *,
        reports: Callable[[], tuple[DeploymentReport, ...]],
        memory: Callable[[], DeviceMemory],
        evict: Callable[[str], int | None],
    ) -> None:
        self._host, self._device = worker.host, worker.device
        self._reports = reports
        self._memory = memory
        self._evict = evict
        self._lock = threading.Lock()
        self._let_in: dict[str, int] = {}  # bytes for each load that was found to fit

    def find(self, row: Deployment, least: int, say: Say) -> None:
        """Let a load in, with a little less than it wants if need be, but no less than `least`.

        Where that was planned or is needed, others are unloaded first; what is about to be free is waited for, for
        settings.ROOM_WAIT seconds at most. Raises InsufficientMemory.
        """
        deadline = time.monotonic() + settings.ROOM_WAIT
        while True:
            others = self._others(row.model_id)
            with self._lock:
                free = max(0, self._memory().free_bytes - self._promised(row))
                planned = bool(row.evicts and others.idle) and row.estimated_bytes <= free + others.size
                if row.estimated_bytes <= free or (least <= free and not planned):
                    self._let_in[row.model_id] = self._share(row, free)
                    return
            if free + others.size < least or time.monotonic() > deadline:
                raise InsufficientMemory(
                    f"The model needs {format_bytes(least)}, and {format_bytes(free)} are free.",
                    details=memory_details(least, free),
                )
            say(0.0, "wait")
            if not others.idle or self._evict(others.idle[0].model_id) is None:
                time.sleep(_LOOK_SECONDS)

    def forget(self, model_id: str) -> None:
        """Its load has ended: what it took is no longer free, or free again."""
        self._let_in.pop(model_id, None)

    def around(self, model_id: str) -> dict[str, Any]:
        """What is told of a load that found too little memory, beside how much that was."""
        return {
            "model": model_id,
            "device": f"{self._host}/{self._device}",
            "could_be_unloaded": [
                {
                    "model": report.model_id,
                    "memory": format_bytes(self._size(report)),
                    "memory_bytes": self._size(report),
                }
                for report in _idle(self._unpinned(model_id))
            ],
        }

    def _others(self, model_id: str) -> _Others:
        """Whose room a load may hope for."""
        leaving = [report for report in self._reports() if report.state == "unloading"]
        may_go = self._unpinned(model_id) if settings.EVICT else []
        return _Others(_idle(may_go), sum(self._size(report) for report in (*leaving, *may_go)))

    def _unpinned(self, model_id: str) -> list[DeploymentReport]:
        pinned = {model_id, *Model.objects.filter(pinned=True).values_list("pk", flat=True)}
        return [
            report
            for report in self._reports()
            if report.state == "loaded" and report.ready is not None and report.model_id not in pinned
        ]

    def _size(self, report: DeploymentReport) -> int:
        return report.device_bytes.get(self._device, report.ready.memory_bytes if report.ready else 0)

    @staticmethod
    def _share(row: Deployment, free: int) -> int:
        if row.estimated_bytes <= free:
            return row.estimated_bytes
        row.max_memory_bytes = min(free, row.max_memory_bytes or free)
        return row.max_memory_bytes

    def _promised(self, row: Deployment) -> int:
        """What other loads will still take of this device: those let in already, and those asked for before it."""
        loading = Deployment.objects.filter(host=self._host, state__in=(State.REQUESTED, State.LOADING))
        others = [other for other in loading.exclude(pk=row.pk) if self._device in other.devices]
        reports = {(self._device, report.model_id): report for report in self._reports()}
        if any(other.device != self._device for other in others):  # over several devices, by another worker
            for worker in live_workers():
                if worker.host == self._host and worker.device != self._device:
                    reports |= {(worker.device, report.model_id): report for report in worker.deployments}
        promised = 0
        for other in others:
            let_in = self._let_in.get(other.model_id) if other.device == self._device else None
            if let_in is None and (other.requested_at, other.pk) > (row.requested_at, row.pk):
                continue
            report = reports.get((other.device, other.model_id))
            taken = report.device_bytes.get(self._device, 0) if report else 0
            promised += max(0, (other.share_bytes if let_in is None else let_in) - taken)
        return promised


def _idle(reports: list[DeploymentReport]) -> tuple[DeploymentReport, ...]:
    return tuple(sorted((item for item in reports if not item.in_flight), key=lambda item: -item.idle_seconds))
