"""What state a model is in, from what workers say of it and what its deployments' rows tell."""

import pytest

from models_mgmt.live import with_workers
from models_mgmt.models import Deployment, Model
from models_mgmt.presence import DeploymentReport, DeploymentState, WorkerReport

State = Deployment.State
MODEL = Model(id="m", name="M", source_kind="echo")


def worker(host: str, state: DeploymentState | None = None) -> WorkerReport:
    held = (DeploymentReport(model_id="m", state=state),) if state else ()
    return WorkerReport(f"w-{host}", host, "cpu", "cpu", f"device.{host}.cpu", 1, 0.0, deployments=held)


def row(host: str, state: str) -> Deployment:
    return Deployment(model=MODEL, host=host, device="cpu", devices=["cpu"], state=state)


@pytest.mark.parametrize(
    ("workers", "rows", "state", "lost_on"),
    [
        ([], [], "available", []),
        ([worker("a")], [], "available", []),
        ([worker("a", "loaded")], [row("a", State.LOADED)], "loaded", []),
        ([worker("a")], [row("a", State.REQUESTED)], "loading", []),
        ([worker("a")], [row("b", State.LOADED)], "lost", ["b/cpu"]),
        ([worker("a")], [row("b", State.LOST)], "lost", ["b/cpu"]),
        ([], [row("a", State.LOST), row("b", State.LOADED)], "lost", ["a/cpu", "b/cpu"]),
        ([worker("a", "loaded")], [row("a", State.LOADED), row("b", State.LOADED)], "loaded", ["b/cpu"]),
        ([worker("a", "loading")], [row("a", State.LOADING), row("b", State.LOST)], "loading", ["b/cpu"]),
        ([worker("a")], [row("a", State.FAILED), row("b", State.LOST)], "failed", ["b/cpu"]),
        ([worker("a")], [row("a", State.FAILED)], "failed", []),
        ([worker("a")], [row("b", State.UNLOADING)], "available", []),
        ([worker("a", "unloading")], [row("a", State.UNLOADING)], "unloading", []),
    ],
)
def test_a_model_is_in_the_best_state_of_its_deployments(
    workers: list[WorkerReport], rows: list[Deployment], state: str, lost_on: list[str]
) -> None:
    (live,) = with_workers([MODEL], workers, rows)
    assert (live.state, live.lost_on, live.is_loaded) == (state, lost_on, state == "loaded")


def test_rows_of_other_models_are_not_its_own() -> None:
    another = Model(id="n", name="N", source_kind="echo")
    live, other = with_workers([MODEL, another], [], [row("a", State.LOST)])
    assert (live.state, other.state) == ("lost", "available")
