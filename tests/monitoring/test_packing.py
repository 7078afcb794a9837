"""The answers of finished hours are kept, and that changes none."""

import threading
from typing import Any

import msgspec
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from pytest_django import Settings

from llama_gpu_site.celery import app
from monitoring.answers import answer
from monitoring.models import HostMinute, PackedFigures, PackedHour, QueueMinute, RequestBucket
from monitoring.packed_hours import HOUR
from monitoring.packing import SETTLE_SECONDS, pack
from monitoring.samplers import keep_queues, keep_sample
from monitoring.tasks import pack as pack_task
from tests.monitoring.records import NOON, record, write
from tests.monitoring.test_samplers import figures, gpu

pytestmark = pytest.mark.django_db(transaction=True)

NOW = NOON + 30 * 60 + 17  # in the first hour after noon


@pytest.fixture(autouse=True)
def _short(settings: Settings) -> None:
    """Six hours are quickly packed."""
    settings.PACKED_SECONDS = 6 * HOUR


def answers(now: float = NOW) -> dict[str, bytes]:
    """Every answer that can be asked for, as its bytes."""
    return {
        f"{timeframe} by {granularity} of {model}": msgspec.json.encode(
            answer(timeframe=timeframe, granularity=granularity, model=model, now=now)
        )
        for timeframe in ("1h", "6h")
        for granularity in settings.METRICS_GRANULARITIES
        for model in (None, "alpha", "beta", "idle")
    }


def pack_all(now: float = NOW) -> None:
    """What the scheduler's turns do, until nothing is left."""
    pack(now)
    while pack(now):
        pass


@pytest.fixture
def some_hours() -> None:
    """Two hosts with GPUs that come and go, two models, and hours in which nothing was."""
    for hours in (0, 1, 2, 4, 6):
        for minute in (0, 1, 7, 29, 59):
            moment = NOON - hours * HOUR + minute * 60
            if moment > NOW:
                continue
            keep_sample("one", moment, figures(cpu_usage=10.0 + minute, cpu_cores=30), [gpu(utilization=minute)])
            if minute % 2:
                gpus = [gpu(), gpu(3, utilization=hours)]
                keep_sample("two", moment, figures(cpu_usage=50.0, cpu_cores=10), gpus[: 1 + hours % 2])
            keep_queues(moment, {"": minute, "alpha": hours})
            write(
                record(moment, total_time=0.5 + minute / 100),
                record(moment, total_time=2.0, model="beta", state="failed" if hours % 2 else "completed"),
            )


@pytest.mark.usefixtures("some_hours")
def test_packed_hours_give_the_same_answers() -> None:
    before = answers()
    pack_all()
    assert sorted(PackedHour.objects.filter(packed=True).values_list("hour", flat=True)) == list(
        range(int(NOW - 6 * HOUR) // HOUR - 1, int(NOON) // HOUR)
    )
    assert answers() == before
    whole = NOON - 5 * HOUR, NOON - 1  # these hours are all in the timeframe; that it is the packs that are read:
    for kind in (HostMinute, QueueMinute):
        kind._default_manager.filter(minute__range=[second // 60 for second in whole]).delete()
    RequestBucket.objects.filter(start__range=whole).delete()
    after = answers()
    wanted = [name for name in before if name.startswith("6h")]
    assert [after[name] for name in wanted] == [before[name] for name in wanted]


@pytest.mark.usefixtures("some_hours")
def test_a_week_is_a_row_for_each_hour_and_busy_model() -> None:
    pack_all()
    rows = PackedFigures.objects.filter(hour=int(NOON) // HOUR - 1, seconds=60).values_list("part", "model")
    assert sorted(rows) == [("hosts", ""), ("idle", ""), ("model", ""), ("model", "alpha"), ("model", "beta")]
    rows = PackedFigures.objects.filter(hour=int(NOON) // HOUR - 3, seconds=3600).values_list("part", "model")
    assert sorted(rows) == [("hosts", ""), ("idle", ""), ("model", "")]


@pytest.mark.usefixtures("some_hours")
def test_a_gpu_that_comes_later_gets_its_column_in_packed_hours_too() -> None:
    pack_all()
    keep_sample("zero", NOW - 1, figures(), [gpu(5, utilization=50)])
    found = answer(timeframe="6h", granularity="1h", model=None, now=NOW)
    assert found.gpus == [("one", 0), ("two", 0), ("two", 3), ("zero", 5)]
    rows = msgspec.json.decode(found.series["gpu_utilization"])
    assert {len(row) for row in rows if row is not None} == {4}
    with_packs = answers()
    PackedHour.objects.all().delete()
    assert answers() == with_packs


@pytest.mark.usefixtures("some_hours")
@pytest.mark.parametrize(
    "change",
    [
        lambda: write(record(NOON - 2 * HOUR + 61, total_time=9.0)),
        lambda: keep_sample("three", NOON - 2 * HOUR, figures(cpu_usage=99.0), [gpu(7)]),
        lambda: keep_queues(NOON - 2 * HOUR, {"": 1000}),
    ],
    ids=["a request", "a host", "a queue"],
)
def test_what_comes_late_is_seen_at_once_and_packed_anew(change: Any) -> None:
    pack_all()
    before = answers()
    change()
    late = answers()
    assert late["6h by 1m of None"] != before["6h by 1m of None"]
    assert PackedHour.objects.filter(packed=False).count() == 1
    assert pack(NOW) == 1
    assert answers() == late


@pytest.mark.usefixtures("some_hours")
def test_figures_counted_anew_are_packed_anew() -> None:
    before = answers()
    RequestBucket.objects.filter(seconds=60).update(requests=99)
    pack_all()
    call_command("rebuild_metrics")
    assert answers() == before
    assert not PackedHour.objects.filter(packed=True).exists()
    pack_all()
    assert answers() == before


def test_an_hour_is_announced_before_it_is_packed_and_not_before_it_has_settled() -> None:
    write(record(NOON + 5))
    hour = int(NOON) // HOUR
    for now in (NOON + HOUR + 1, NOON + HOUR + SETTLE_SECONDS - 1):
        pack_all(now)
        assert not PackedHour.objects.filter(hour=hour).exists()
    assert pack(NOON + HOUR + SETTLE_SECONDS) == 0
    assert not PackedHour.objects.get(hour=hour).packed
    assert pack(NOON + HOUR + SETTLE_SECONDS) == 1
    assert PackedHour.objects.get(hour=hour).packed


def test_packs_that_nobody_can_ask_for_any_more_are_dropped() -> None:
    write(record(NOON - 1))
    pack_all()
    pack_all(NOW + 9 * HOUR)
    for kind in (PackedHour, PackedFigures):
        hours = kind._default_manager.order_by("hour").values_list("hour", flat=True)
        assert hours[0] == int(NOW + 3 * HOUR) // HOUR - 1


@pytest.mark.usefixtures("some_hours")
def test_packs_outlive_no_figures(settings: Settings) -> None:
    settings.KEEP_METRICS_DAYS = 2 / 24
    pack_all()
    assert PackedFigures.objects.order_by("hour")[0].hour == int(NOW - 2 * HOUR) // HOUR - 1


def test_who_writes_while_an_hour_is_packed_is_not_forgotten() -> None:
    pack_all()
    ended, failures = threading.Event(), []

    def write_late(number: int) -> None:
        try:
            for minute in range(8):
                write(record(NOON - HOUR + 60 * minute, model=("alpha", "beta")[number]))
        except Exception as error:  # noqa: BLE001
            failures.append(error)
        finally:
            connection.close()

    def keep_packing() -> None:
        try:
            while not ended.wait(0.001):
                pack(NOW)
        except Exception as error:  # noqa: BLE001
            failures.append(error)
        finally:
            connection.close()

    packer, *writers = [threading.Thread(target=keep_packing)] + [
        threading.Thread(target=write_late, args=[number]) for number in range(2)
    ]
    for thread in (packer, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    packer.join()
    assert not failures
    with_packs = answers()
    PackedHour.objects.all().delete()
    assert answers() == with_packs
    assert b"1" in with_packs["1h by 1m of alpha"]


def test_the_scheduler_does_it(clean_redis: str) -> None:
    app.loader.import_default_modules()
    assert {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()} <= set(app.tasks)
    pack_task()
    assert PackedHour.objects.count() in {6, 7}  # the running hour settles meanwhile
