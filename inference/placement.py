"""Which worker gets a request."""

from collections.abc import Iterable

from django.conf import settings

from models_mgmt.presence import WorkerReport

_STATES = {"loaded": 0, "loading": 1}


def choose(workers: Iterable[WorkerReport], model_id: str) -> WorkerReport | None:
    """The best of the live workers, if one can take the model.

    One that has it loaded goes first, then one that loads it, then, with settings.AUTOLOAD, any other; of equals, the
    least busy.
    """
    best: tuple[int, int, str] | None = None
    chosen = None
    for worker in workers:
        if worker.draining:
            continue
        deployment = worker.deployment(model_id)
        state = _STATES.get(deployment.state, 2) if deployment else 2
        if state == 2 and not settings.AUTOLOAD:
            continue
        busy = sum(item.in_flight for item in worker.deployments)
        rank = (state, busy, worker.worker_id)
        if best is None or rank < best:
            best, chosen = rank, worker
    return chosen
