"""Models together with what the workers say about them now."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from engine.messages import Ready
from models_mgmt.models import Deployment, Model
from models_mgmt.presence import DeploymentReport, DeploymentState, ModelState, WorkerReport

MODEL_STATES: tuple[ModelState, ...] = get_args(ModelState)


@dataclass(frozen=True, slots=True)
class LiveModel:
    """A registered model and its deployments: what live workers say of them, and the rows of all.

    `devices`: host and device of each live worker.
    """

    model: Model
    deployments: tuple[tuple[WorkerReport, DeploymentReport], ...]
    devices: frozenset[tuple[str, str]] = frozenset()
    rows: tuple[Deployment, ...] = ()

    @property
    def loaded(self) -> list[DeploymentReport]:
        return [deployment for _, deployment in self.deployments if deployment.state == "loaded"]

    @property
    def places(self) -> list[str]:
        """Where it is loaded or being loaded, or about to be, as `host/device`."""
        held = [(worker.host, worker.device) for worker, report in self.deployments if report.state != "failed"]
        asked = [(row.host, row.device) for row, state in self.unspoken if state == "loading"]
        return [f"{host}/{device}" for host, device in (*held, *asked)]

    @property
    def is_loaded(self) -> bool:
        return bool(self.loaded)

    @property
    def state(self) -> ModelState:
        """The best that is true of any of its deployments; `lost_on` tells of those that a `loaded` one lacks."""
        states = {deployment.state for _, deployment in self.deployments}
        states.update(state for _, state in self.unspoken)
        return next((state for state in MODEL_STATES if state in states), "available")

    @property
    def unspoken(self) -> list[tuple[Deployment, DeploymentState]]:
        """Deployments that no worker speaks of: lost with their worker, failed, or not taken up yet."""
        spoken = {(worker.host, worker.device) for worker, _ in self.deployments}
        states = ((row, self._unspoken_state(row)) for row in self.rows if (row.host, row.device) not in spoken)
        return [(row, state) for row, state in states if state is not None]

    @property
    def lost_on(self) -> list[str]:
        """Where it was wanted and is lost with its worker, as `host/device`."""
        return [f"{row.host}/{row.device}" for row, state in self.unspoken if state == "lost"]

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

    def _unspoken_state(self, row: Deployment) -> DeploymentState | None:
        if row.state == Deployment.State.FAILED:
            return "failed"
        if (row.host, row.device) in self.devices:  # its worker lives and has not taken it up yet
            return "loading" if row.is_wanted else None
        return "lost" if row.is_wanted or row.state == Deployment.State.LOST else None


def with_workers(
    models: Iterable[Model], workers: Iterable[WorkerReport], rows: Iterable[Deployment] = ()
) -> list[LiveModel]:
    """Each model with the workers that hold or load it, and its rows among `rows`, which tell what else is wanted."""
    known: dict[str, list[Deployment]] = {}
    for row in rows:
        known.setdefault(row.model_id, []).append(row)
    held: dict[str, list[tuple[WorkerReport, DeploymentReport]]] = {}
    devices = set()
    for worker in workers:
        devices.add((worker.host, worker.device))
        for deployment in worker.deployments:
            held.setdefault(deployment.model_id, []).append((worker, deployment))
    return [
        LiveModel(model, tuple(held.get(model.id, ())), frozenset(devices), tuple(known.get(model.id, ())))
        for model in models
    ]
