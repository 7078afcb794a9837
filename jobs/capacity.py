"""How many items of jobs a model may have in work: as many as its engines run at once, less what requests take."""

from collections.abc import Iterable

from django.conf import settings

from common.redis import redis_line
from inference.keys import model_queue
from models_mgmt.presence import alive_workers

# So much more than the engines run at once is sent ahead, for an engine to go on with while the next is on its way.
AHEAD = 1.5
# Always sent, so that a model is loaded for a job, and one that is never idle gets on with it slowly.
LEAST = 2


class Capacity:
    """What was known of the models at the last refresh."""

    def __init__(self) -> None:
        self._at_once: dict[str, int] = {}
        self._requests: dict[str, int] = {}

    async def refresh(self, models: Iterable[str]) -> None:
        """Ask who has these models loaded, and how busy they are. Raises redis.RedisError."""
        wanted = set(models)
        if not wanted:
            return
        workers = await alive_workers()
        self._at_once = dict.fromkeys(wanted, 0)
        for worker in workers:
            for item in worker.deployments:
                if item.model_id in wanted and item.ready is not None and not worker.draining:
                    self._at_once[item.model_id] += item.ready.max_sequences
        line = redis_line()
        seconds, _ = await line.execute("TIME")
        for model in wanted:
            self._requests[model] = int(await line.execute("ZCOUNT", model_queue(model), int(seconds), "+inf"))

    def room(self, model: str, in_work: int, in_all: int) -> int:
        """How many more items to send to a model that has `in_work` of them; `in_all` are on their way to any model."""
        window = int(self._at_once.get(model, 0) * AHEAD) - self._requests.get(model, 0)
        # A worker's threads are for requests, too.
        left = settings.WORKER_THREADS // 2 - in_all
        return max(0, min(max(window, LEAST) - in_work, left))
