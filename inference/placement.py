"""Which worker gets a request."""

from collections.abc import Iterable, Mapping

from django.conf import settings

from models_mgmt.presence import WorkerReport

_STATES = {"loaded": 0, "loading": 1}


def choose(workers: Iterable[WorkerReport], model_id: str, sent: Mapping[str, int]) -> WorkerReport | None:
    """The best of the live workers, if one can take the model.

    One that has it loaded goes first, then one that loads it, then, with settings.AUTOLOAD, any other; of equals, the
    least busy. `sent`: how many requests of this process's own each worker holds, by its id: its report may be older.
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
        busy = max(sum(item.in_flight for item in worker.deployments), sent.get(worker.worker_id, 0))
        rank = (state, busy, worker.worker_id)
        if best is None or rank < best:
            best, chosen = rank, worker
    return chosen
