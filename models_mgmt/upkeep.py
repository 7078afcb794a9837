"""The scheduler's care for deployments: lost ones are called so, forgotten ones are told again, idle ones unloaded."""

import logging
from datetime import timedelta

from django.conf import settings
from django.db.models.functions import Now

from common.events import ModelLost, publish
from models_mgmt.deployments import LOAD_TASK, request_unload, send
from models_mgmt.models import Deployment
from models_mgmt.presence import live_workers

logger = logging.getLogger(__name__)

State = Deployment.State
# A worker takes up a load at once; one that still waits after this has been lost on its way.
_FORGOTTEN = timedelta(seconds=10)
_LOST = "Its worker was lost."


def mark_lost() -> None:
    """Deployments of workers that are gone. A worker that comes back loads again what was asked for."""
    alive = {(worker.host, worker.device) for worker in live_workers()}
    for row in Deployment.objects.filter(state__in=(*Deployment.WANTED, State.UNLOADING)):
        if (row.host, row.device) in alive:
            continue
        still = Deployment.objects.filter(pk=row.pk, state=row.state)
        if still.update(state=State.LOST, error=_LOST, changed_at=Now()):
            logger.warning("%s is lost with its worker", row)
            publish(ModelLost(model=row.model_id, host=row.host, device=row.device, error=_LOST))


def send_again() -> None:
    """Loads whose message was lost with the broker. To load what is loaded does nothing."""
    for row in Deployment.objects.filter(state=State.REQUESTED, changed_at__lt=Now() - _FORGOTTEN):
        send(LOAD_TASK, row, row.pk)


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
