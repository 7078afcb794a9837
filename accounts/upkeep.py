"""The scheduler's care for accounts: what has been kept long enough goes."""

import logging
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from accounts.models import AuditEntry

logger = logging.getLogger(__name__)

_BATCH = 1000  # so that no transaction holds up the writers of SQLite for long


def prune_audit() -> int:
    """Delete what is older than settings.AUDIT_DAYS, the oldest first; 0 keeps everything. Returns how many went."""
    if not settings.AUDIT_DAYS:
        return 0
    before = timezone.now() - timedelta(days=settings.AUDIT_DAYS)
    gone = 0
    while ids := list(AuditEntry.objects.filter(at__lt=before).order_by("id").values_list("id", flat=True)[:_BATCH]):
        gone += AuditEntry.objects.filter(pk__in=ids).delete()[0]
    if gone:
        logger.info("%d entries of the audit were older than %g days and are gone", gone, settings.AUDIT_DAYS)
    return gone
