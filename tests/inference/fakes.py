"""A transport without Redis or broker: the test plays the worker."""

import asyncio
import time
from collections.abc import Sequence

import redis

from common.errors import BackendUnavailable
from engine.messages import RequestEvent
from inference.lost import Lost
from inference.messages import Cancel, Frame, Job
from models_mgmt.presence import DeploymentReport, WorkerReport


def worker(worker_id: str, *, loaded: str = "m", queue: str = "device.host.cpu") -> WorkerReport:
    deployments = (DeploymentReport(model_id=loaded, state="loaded"),) if loaded else ()
    return WorkerReport(
        worker_id=worker_id,
        host="host",
        device="cpu",
        backend="cpu",
        queue=queue,
        pid=1,
        started_at=time.time(),
        deployments=deployments,
    )


class FakeTransport:
    def __init__(self) -> None:
        self.alive = [worker("w1")]
        self.jobs: asyncio.Queue[tuple[str, Job, int]] = asyncio.Queue()
        self.frames: asyncio.Queue[Frame] = asyncio.Queue()
        self.cancels: list[Cancel] = []
        self.demanded: list[str] = []
        self.losses: list[Lost] = []
        self.claimed: dict[str, str] = {}
        self.kept = True
        self.full = False
        self.broken = False
        self._sequences: dict[str, int] = {}

    async def open(self, web_id: str) -> None: ...

    async def read(self) -> list[Frame]:
        return [await self.frames.get()]

    async def beat(self) -> bool:
        return self.kept

    async def workers(self) -> list[WorkerReport]:
        return self.alive

    def now(self) -> float:
        return time.time()

    async def demand(self, model_id: str) -> str:
        self.demanded.append(model_id)
        await asyncio.sleep(0.01)
        takers = [item.worker_id for item in self.alive if not item.draining]
        if not takers:
            raise BackendUnavailable("No worker is running.", retry_after=2)
        return takers[0]

    async def submit(self, queue: str, job: Job, priority: int, seconds: float) -> None:
        if self.full:
            raise BackendUnavailable("full", retry_after=2)
        if self.broken:
            raise redis.ConnectionError("gone")
        await self.jobs.put((queue, job, priority))

    async def cancel(self, queue: str, model_id: str, cancel: Cancel, seconds: float) -> None:
        self.cancels.append(cancel)

    async def claims(self, job_ids: Sequence[str]) -> dict[str, str]:
        return {job_id: self.claimed[job_id] for job_id in job_ids if job_id in self.claimed}

    async def lost(self, ends: Sequence[Lost]) -> None:
        self.losses += ends

    async def close(self) -> None: ...

    def tell(self, *events: RequestEvent, worker_id: str = "w1", skip: int = 0) -> None:
        """Send what a worker would send; `skip` loses so many frames before it."""
        number = self._sequences[worker_id] = self._sequences.get(worker_id, 0) + 1 + skip
        self.frames.put_nowait(Frame(worker_id, "cpu", number, events))
