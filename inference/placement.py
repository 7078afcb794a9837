"""Which worker gets a request."""

from collections.abc import Iterable, Mapping

from models_mgmt.presence import WorkerReport

_RANKS = {"loaded": 0, "loading": 1}


def choose(workers: Iterable[WorkerReport], model_id: str, sent: Mapping[str, int]) -> WorkerReport | None:
    """The best of the workers that have the model loaded or load it; None if there is none.

    One that has it loaded goes first; of equals, the least busy. `sent`: how many requests of this process's own each
    worker holds, by its id: its report may be older.
    """
    best: tuple[int, int, str] | None = None
    chosen = None
    for worker in workers:
        deployment = worker.deployment(model_id)
        if worker.draining or deployment is None or deployment.state not in _RANKS:
            continue
        busy = max(sum(item.in_flight for item in worker.deployments), sent.get(worker.worker_id, 0))
        rank = (_RANKS[deployment.state], busy, worker.worker_id)
        if best is None or rank < best:
            best, chosen = rank, worker
    return chosen
