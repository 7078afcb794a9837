"""Celery tasks: loads and unloads on a device's control queue, and the care for deployments on the scheduler's."""

from celery import shared_task

from models_mgmt import made_files, upkeep
from models_mgmt.device_host import current_host
from models_mgmt.presence import announce_scheduler


@shared_task(name="models_mgmt.tasks.load_deployment", acks_late=True, ignore_result=True)  # type: ignore[untyped-decorator]
def load_deployment(deployment_id: int) -> None:
    current_host().load(deployment_id)


@shared_task(name="models_mgmt.tasks.unload_deployment", acks_late=True, ignore_result=True)  # type: ignore[untyped-decorator]
def unload_deployment(
    deployment_id: int, ticket: str, force: bool, reason: str, only_if_idle_for: float | None
) -> None:
    current_host().unload(deployment_id, ticket=ticket, force=force, reason=reason, only_if_idle_for=only_if_idle_for)


@shared_task(name="models_mgmt.tasks.unload_deleted", acks_late=True, ignore_result=True)  # type: ignore[untyped-decorator]
def unload_deleted(model_id: str) -> None:
    current_host().unload_deleted(model_id)


@shared_task(name="models_mgmt.tasks.remove_conversion", acks_late=True, ignore_result=True)  # type: ignore[untyped-decorator]
def remove_conversion(place: str) -> None:
    made_files.remove(place)


@shared_task(name="models_mgmt.tasks.keep_deployments", ignore_result=True)  # type: ignore[untyped-decorator]
def keep_deployments() -> None:
    announce_scheduler()
    upkeep.mark_lost()
    upkeep.send_again()
    upkeep.unload_deleted()
    upkeep.unload_idle()
