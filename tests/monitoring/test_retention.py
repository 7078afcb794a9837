import time

import pytest
from django.utils import timezone
from pytest_django import Settings

from accounts.models import DailyUsage
from inference.models import RequestRecord
from monitoring import retention
from monitoring.models import HostMinute, HostSample, LogEntry, QueueMinute, RequestBucket
from monitoring.samplers import keep_queues, keep_sample
from tests.monitoring.records import record, write
from tests.monitoring.test_logs import entry
from tests.monitoring.test_samplers import figures

pytestmark = pytest.mark.django_db(transaction=True)
DAY = 24 * 3600
KINDS = (HostSample, HostMinute, QueueMinute, RequestBucket, RequestRecord, LogEntry)


@pytest.fixture(autouse=True)
def kept(settings: Settings) -> None:
    """Everything of now and of 50 hours ago."""
    settings.KEEP_SAMPLES_HOURS = 24
    settings.KEEP_METRICS_DAYS = settings.KEEP_RECORDS_DAYS = settings.KEEP_LOGS_DAYS = 1
    for moment in (time.time(), time.time() - 50 * 3600):
        keep_sample("one", moment, figures(), [])
        keep_queues(moment, {"": 1})
        write(record(moment))
    LogEntry.objects.bulk_create([entry(at=timezone.now()), entry()])


def test_what_is_old_goes_and_what_is_new_stays() -> None:
    before = {kind.__name__: kind._default_manager.count() for kind in KINDS}
    assert retention.prune() == {name: count // 2 for name, count in before.items()}
    assert {kind.__name__: kind._default_manager.count() * 2 for kind in KINDS} == before
    assert set(retention.prune().values()) == {0}


def test_usage_by_day_outlives_the_records() -> None:
    retention.prune()
    assert DailyUsage.objects.count() == 2


@pytest.mark.usefixtures("kept")
def test_nought_keeps_for_good(settings: Settings) -> None:
    settings.KEEP_SAMPLES_HOURS = settings.KEEP_METRICS_DAYS = settings.KEEP_RECORDS_DAYS = settings.KEEP_LOGS_DAYS = 0
    before = [kind._default_manager.count() for kind in KINDS]
    assert retention.prune() == {}
    assert [kind._default_manager.count() for kind in KINDS] == before


def test_much_goes_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_AT_ONCE", 3)
    monkeypatch.setattr(retention, "_PAUSE_SECONDS", 0)
    LogEntry.objects.bulk_create([entry(second) for second in range(10)])
    assert retention.prune()["LogEntry"] == 11


def test_the_scheduler_does_it() -> None:
    from django.conf import settings

    from llama_gpu_site.celery import app

    app.loader.import_default_modules()
    assert settings.CELERY_BEAT_SCHEDULE["prune"]["task"] in app.tasks
