"""How the unfinished jobs stand, as the dispatcher has to know it."""

from dataclasses import dataclass, replace
from datetime import datetime

from django.conf import settings
from django.utils import timezone

from accounts.caller import Caller
from accounts.credentials import caller_behind
from common.errors import ModelNotFound
from jobs.ledger import end_if_done
from jobs.models import Job
from jobs.services import end
from jobs.shares import PREMIUM_WEIGHT
from models_mgmt.selectors import resolve_model

_NO_LONGER_ALLOWED = {
    "code": "AUTHENTICATION_FAILED",
    "message": "The key or the user that this job belongs to may no longer send requests.",
    "details": {},
}


@dataclass(frozen=True, slots=True)
class Standing:
    """A job that is to go on. `model`: the id of the model that its items go to, or a name that no model has."""

    job_id: str
    owner_id: int
    caller: Caller
    model: str
    is_validating: bool
    weight: int
    waits_for: str
    waits_until: datetime | None

    def is_ready(self, now: datetime) -> bool:
        return not self.is_validating and (self.waits_until is None or self.waits_until <= now)

    def waiting(self, reason: str, until: datetime) -> "Standing":
        return replace(self, waits_for=reason, waits_until=until)

    def without_wait(self) -> "Standing":
        return replace(self, waits_for="", waits_until=None)


def look() -> list[Standing]:
    """The jobs that go on, the oldest first. Ends those that are over, whose key was revoked, or all of whose items
    have ended."""
    now = timezone.now()
    standings: list[Standing] = []
    callers: dict[tuple[int, int | None], Caller | None] = {}
    for job in Job.objects.filter(state__in=Job.UNFINISHED).order_by("created_at", "pk"):
        whose = (job.owner_id, job.key_id)
        if whose not in callers:
            callers[whose] = _caller_of(job)
        caller = callers[whose]
        if caller is None:
            end(job, Job.State.FAILED, error=_NO_LONGER_ALLOWED)
        elif job.expires_at <= now:
            end(job, Job.State.EXPIRED)
        elif not end_if_done(job):
            standings.append(_standing(job, caller))
    return standings


def _caller_of(job: Job) -> Caller | None:
    """Whose rights and limits a job's items have; None if these don't let it go on."""
    if job.key_prefix and job.key_id is None:
        return None  # the key is gone
    caller = caller_behind(user_id=job.owner_id, key_id=job.key_id)
    return caller if caller is not None and "write" in caller.permissions else None


def _standing(job: Job, caller: Caller) -> Standing:
    try:
        model = resolve_model(job.model or None).pk
    except ModelNotFound:
        model = job.model
    _, _, goes_first = settings.TIERS[caller.tier]
    return Standing(
        job_id=job.pk,
        owner_id=job.owner_id,
        caller=caller,
        model=model,
        is_validating=job.state == Job.State.VALIDATING,
        weight=PREMIUM_WEIGHT if goes_first else 1,
        waits_for=job.waits_for,
        waits_until=job.waits_until,
    )
