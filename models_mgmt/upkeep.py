"""The scheduler's care for deployments: lost ones are called so, forgotten ones are told again, idle ones unloaded."""

import logging
from datetime import timedelta

from django.conf import settings
from django.db.models.functions import Now

from common.events import ModelLost, publish
from common.redis import key, sync_redis
from models_mgmt.deployments import LOAD_TASK, UNLOAD_DELETED_TASK, request_unload, send, take_back
from models_mgmt.models import Deployment, Model
from models_mgmt.presence import live_workers

logger = logging.getLogger(__name__)

State = Deployment.State
# A worker takes up a load at once; one that still waits after this has been lost on its way.
_FORGOTTEN = timedelta(seconds=10)
# For how many looks it is remembered that a worker was missed: some may be late.
_MISSED_LOOKS = 5
_LOST = "Its worker was lost."


def mark_lost() -> None:
    """Deployments of workers that are gone; one that was only silent for a while has them back.

    A worker is gone when it is missed at two looks, one after the other. One that is started anew loads again what was
    asked for.
    """
    workers = live_workers()
    take_back(workers)
    alive = {(worker.host, worker.device) for worker in workers}
    rows = Deployment.objects.filter(state__in=(*Deployment.WANTED, State.UNLOADING))
    gone = _missed_twice({(row.host, row.device) for row in rows} - alive, back=alive)
    for row in rows:
        if (row.host, row.device) not in gone:
            continue
        still = Deployment.objects.filter(pk=row.pk, state=row.state)
        if still.update(state=State.LOST, error=_LOST, changed_at=Now()):
            logger.warning("%s is lost with its worker", row)
            publish(ModelLost(model=row.model_id, host=row.host, device=row.device, error=_LOST))


def _missed_twice(missing: set[tuple[str, str]], *, back: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those of the missing workers that were missing at the last look, too."""
    names = {place: key("worker-missed", *place) for place in missing | back}
    client = sync_redis()
    if found := [names[place] for place in back]:
        client.delete(*found)
    expiry = max(1, round(_MISSED_LOOKS * settings.UPKEEP_SECONDS))
    return {place for place in missing if not client.set(names[place], 1, nx=True, ex=expiry)}


def send_again() -> None:
    """Loads whose message was lost with the broker. To load what is loaded does nothing."""
    for row in Deployment.objects.filter(state=State.REQUESTED, changed_at__lt=Now() - _FORGOTTEN):
        if Deployment.objects.filter(pk=row.pk, state=State.REQUESTED).update(changed_at=Now()):
            send(LOAD_TASK, row, row.pk)


def unload_deleted() -> None:
    """Engines of models that were deleted while they were being loaded."""
    workers = live_workers()
    held = {item.model_id for worker in workers for item in worker.deployments if item.state != "failed"}
    deleted = held - set(Model.objects.filter(pk__in=held).values_list("pk", flat=True))
    for worker in workers:
        for item in worker.deployments:
            if item.model_id in deleted and item.state != "failed":
                logger.warning("%s has the model %s, which was deleted", worker.worker_id, item.model_id)
                send(UNLOAD_DELETED_TASK, worker, item.model_id)


def unload_idle() -> None:
    """Models that nobody has used for settings.KEEP_ALIVE seconds, unless they are pinned. The worker looks again."""
    if not settings.KEEP_ALIVE:
        return
    idle = {
        (worker.host, worker.device, item.model_id)
        for worker in live_workers()
        for item in worker.deployments
        if item.state == "loaded" and item.in_flight == 0 and item.idle_seconds >= settings.KEEP_ALIVE
    }
    for row in Deployment.objects.select_related("model").filter(state=State.LOADED, model__pinned=False):
        if (row.host, row.device, row.model_id) in idle:
            place = f"{row.host}/{row.device}"
            request_unload(row.model, device=place, reason="idle", only_if_idle_for=settings.KEEP_ALIVE)
