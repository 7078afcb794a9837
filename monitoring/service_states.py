"""Which parts of the installation run, and how well, from what answered in the last seconds."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from models_mgmt.presence import LostWorker, WorkerReport
from monitoring.gpus import Gpu
from monitoring.health import Check

ServiceState = Literal["running", "degraded", "stopped"]
Status = Literal["healthy", "degraded", "unhealthy"]
_OF_CHECKS: dict[str, ServiceState] = {"ok": "running", "degraded": "degraded", "failed": "stopped"}
# Without these, nobody gets an answer.
_VITAL = ("inference_engine", "database", "redis")


def service_states(
    *,
    checks: Mapping[str, Check],
    workers: Iterable[WorkerReport],
    lost: Iterable[LostWorker],
    gpus: Iterable[Gpu],
    failed_plugins: Iterable[Any],
) -> dict[str, ServiceState]:
    """The state of each service. `checks` are those of /health, `lost` the workers that fell silent."""
    serving = [worker for worker in workers if not worker.draining]
    broken = checks["engines"].status != "ok" or any(
        item.state == "failed" and item.is_missed for worker in serving for item in worker.deployments
    )
    gpu_lost = any(gpu.status == "lost" for gpu in gpus)
    others: dict[str, ServiceState] = {
        name: _OF_CHECKS[check.status] for name, check in checks.items() if name not in {"workers", "engines"}
    }
    return {
        "inference_engine": _state(
            bool(serving) and checks["engines"].status != "failed", worse=any(lost) or broken or gpu_lost
        ),
        "plugin_manager": _state(bool(serving), worse=any(failed_plugins)),  # the workers run them
        "web_dashboard": "running",  # the process that says this
        "websocket_server": _state(checks["redis"].status == "ok", worse=False),
        **others,
    }


def overall(services: Mapping[str, ServiceState]) -> Status:
    """`unhealthy` when requests can't be served, `degraded` when something else does not run as it should."""
    if any(services.get(name) == "stopped" for name in _VITAL):
        return "unhealthy"
    return "healthy" if all(state == "running" for state in services.values()) else "degraded"


def _state(runs: bool, *, worse: bool) -> ServiceState:
    if not runs:
        return "stopped"
    return "degraded" if worse else "running"
