"""The whole installation as of now."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil
from django.conf import settings
from django.utils import timezone

from models_mgmt.presence import LostWorker, WorkerReport
from monitoring.health import Check
from monitoring.hosts import HostReader
from monitoring.selectors import Lately, LiveHost, Totals, lately, live_hosts, totals
from monitoring.service_states import ServiceState, Status, overall, service_states
from plugins_app.selectors import all_plugins

_MEASURE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class SystemStatus:
    """`uptime`: seconds, of this process. `active_requests`: what the workers have in hand."""

    status: Status
    uptime: int
    hosts: Sequence[LiveHost]
    services: Mapping[str, ServiceState]
    totals: Totals
    lately: Lately
    active_requests: int


def system_status(
    *, now: float, checks: Mapping[str, Check], workers: Sequence[WorkerReport], lost: Sequence[LostWorker]
) -> SystemStatus:
    """Put together what the workers, the samplers and the records tell. `now`: Redis' time."""
    hosts = live_hosts(now) or [_this_host(now)]
    services = service_states(
        checks=checks,
        workers=workers,
        lost=lost,
        gpus=[gpu for host in hosts for gpu in host.gpus],
        failed_plugins=_failed_plugins(),
    )
    return SystemStatus(
        status=overall(services),
        uptime=int(time.time() - psutil.Process().create_time()),
        hosts=hosts,
        services=services,
        totals=totals(),
        lately=lately(now),
        active_requests=sum(item.in_flight for worker in workers for item in worker.deployments),
    )


def _this_host(now: float) -> LiveHost:
    """What can be told while no worker samples: the host of this web process."""
    reader = HostReader()
    time.sleep(_MEASURE_SECONDS)
    return LiveHost(settings.WORKER_HOST, now, reader.read())


def _failed_plugins() -> list[str]:
    """Loaded plugins that can't be imported, or that failed so often that they are switched off."""
    now = timezone.now()
    return [
        known.row.pk
        for known in all_plugins()
        if known.row.loaded and (known.installed.error or known.row.circuit_state(now) != "closed")
    ]
