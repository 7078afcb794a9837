"""Models together with what the workers say about them now."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from engine.messages import Ready
from models_mgmt.models import Model
from models_mgmt.presence import DeploymentReport, WorkerReport


@dataclass(frozen=True, slots=True)
class LiveModel:
    """A registered model and its deployments on live workers. `devices`: host and device of each live worker."""

    model: Model
    deployments: tuple[tuple[WorkerReport, DeploymentReport], ...]
    devices: frozenset[tuple[str, str]] = frozenset()

    @property
    def loaded(self) -> list[DeploymentReport]:
        return [deployment for _, deployment in self.deployments if deployment.state == "loaded"]

    @property
    def places(self) -> list[str]:
        """Where it is loaded or being loaded, as `host/device`."""
        held = [worker for worker, deployment in self.deployments if deployment.state != "failed"]
        return [f"{worker.host}/{worker.device}" for worker in held]

    @property
    def is_loaded(self) -> bool:
        return bool(self.loaded)

    @property
    def state(self) -> Literal["available", "loading", "loaded", "unloading", "failed"]:
        states = {deployment.state for _, deployment in self.deployments}
        for state in ("loaded", "loading", "unloading", "failed"):
            if state in states:
                return state
        return "available"

    @property
    def ready(self) -> Ready | None:
        """What the first loaded engine told about itself."""
        return next((deployment.ready for deployment in self.loaded if deployment.ready), None)

    @property
    def memory_bytes(self) -> int:
        """Over all engines that hold it."""
        return sum(deployment.ready.memory_bytes for deployment in self.loaded if deployment.ready)

    @property
    def tokens_per_second(self) -> float | None:
        speeds = [deployment.tokens_per_second for deployment in self.loaded if deployment.tokens_per_second]
        return round(sum(speeds) / len(speeds), 2) if speeds else None


def with_workers(models: Iterable[Model], workers: Iterable[WorkerReport]) -> list[LiveModel]:
    """Each model with the workers that hold or load it."""
    held: dict[str, list[tuple[WorkerReport, DeploymentReport]]] = {}
    devices = set()
    for worker in workers:
        devices.add((worker.host, worker.device))
        for deployment in worker.deployments:
            held.setdefault(deployment.model_id, []).append((worker, deployment))
    return [LiveModel(model, tuple(held.get(model.id, ())), frozenset(devices)) for model in models]
