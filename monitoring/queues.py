"""How many requests wait for each model now."""

from collections import Counter
from collections.abc import Iterable

from common.redis import sync_redis
from inference.keys import model_queue
from models_mgmt.presence import WorkerReport
from monitoring.rollups import ALL_MODELS


def waiting_by_model(workers: Iterable[WorkerReport], now: float) -> dict[str, int]:
    """The requests that no engine generates for yet, wherever they wait, by the model; under ALL_MODELS, their sum.

    `now`: Redis' time. Raises redis.RedisError.
    """
    running: Counter[str] = Counter()
    for worker in workers:
        for item in worker.deployments:
            running[item.model_id] += item.running
    with sync_redis().pipeline(transaction=False) as pipe:
        for model_id in running:
            pipe.zcount(model_queue(model_id), now, "+inf")  # deadlines; what a crash left behind has passed
        held = pipe.execute() if running else []
    waiting = {model: max(0, count - running[model]) for model, count in zip(running, held, strict=True)}
    return {ALL_MODELS: sum(waiting.values()), **waiting}
