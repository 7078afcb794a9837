"""Lets one dispatcher work at a time, in all processes of all hosts; another one takes over after its end.

The database's clock alone measures the time. Whoever was away for too long may still believe to hold the lease: what
protects the results is that each item names the dispatcher which has it in work.
"""

import secrets
from datetime import timedelta

from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from jobs.models import DispatcherLease, JobItem

SECONDS = 6.0


class Lease:
    """A try to hold it, under a name that no other has."""

    def __init__(self) -> None:
        self.holder = secrets.token_hex(8)

    def hold(self) -> bool:
        """Take or renew it; False while another one has it."""
        DispatcherLease.objects.get_or_create(id=1, defaults={"until": timezone.now() - timedelta(days=1)})
        mine_or_free = Q(holder=self.holder) | Q(until__lt=Now())
        taken = DispatcherLease.objects.filter(mine_or_free, id=1)
        return bool(taken.update(holder=self.holder, until=Now() + timedelta(seconds=SECONDS)))

    def take_over(self) -> int:
        """Have everything sent again that others had in work; returns how many items that are."""
        left = JobItem.objects.filter(state=JobItem.State.RUNNING).exclude(run=self.holder)
        return left.update(state=JobItem.State.PENDING, run="")

    def let_go(self) -> None:
        """Leave everything to whoever comes next."""
        mine = JobItem.objects.filter(state=JobItem.State.RUNNING, run=self.holder)
        mine.update(state=JobItem.State.PENDING, run="")
        DispatcherLease.objects.filter(id=1, holder=self.holder).update(until=Now() - timedelta(seconds=1))
