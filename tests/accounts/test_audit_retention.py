"""Entries of the audit go when they are old enough, and no sooner."""

from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from accounts import audit, upkeep
from accounts.models import AuditEntry
from accounts.tasks import prune_audit
from llama_gpu_site.celery import app

pytestmark = pytest.mark.django_db


def entry(*, days: float) -> AuditEntry:
    """An entry that is so many days old."""
    audit.record("key.revoked", actor=audit.SERVER, target_type="key", target_id=1)
    row = AuditEntry.objects.latest("id")
    AuditEntry.objects.filter(pk=row.pk).update(at=timezone.now() - timedelta(days=days))
    return row


def left() -> list[int]:
    return list(AuditEntry.objects.order_by("id").values_list("pk", flat=True))


def test_a_year_is_kept_when_nothing_is_set() -> None:
    entry(days=366)
    young = entry(days=364)
    prune_audit()
    assert left() == [young.pk]


def test_the_setting_is_minded(settings: Settings) -> None:
    settings.AUDIT_DAYS = 0.5
    entry(days=1)
    young = entry(days=0.25)
    assert upkeep.prune_audit() == 1
    assert left() == [young.pk]


def test_zero_keeps_everything(settings: Settings) -> None:
    settings.AUDIT_DAYS = 0
    old = entry(days=36_000)
    assert upkeep.prune_audit() == 0
    assert left() == [old.pk]


def test_many_go_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_BATCH", 2)
    for _ in range(5):
        entry(days=400)
    assert upkeep.prune_audit() == 5
    assert left() == []


def test_the_scheduler_does_it() -> None:
    scheduled = {item["task"] for item in app.conf.beat_schedule.values()}
    assert prune_audit.name in scheduled
    assert prune_audit.name in app.tasks
