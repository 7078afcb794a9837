"""Requests are added up by spans of time in the transaction that writes their records."""

import threading

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from inference.models import RequestRecord
from inference.record_listeners import tell_listeners
from monitoring import rollups
from monitoring.models import RequestBucket
from tests.monitoring.records import NOON, record, write

pytestmark = pytest.mark.django_db(transaction=True)


def bucket(seconds: int = 60, model: str = "", start: float = NOON) -> RequestBucket:
    return RequestBucket.objects.get(seconds=seconds, model=model, start=start)


def test_a_request_counts_where_it_ended_in_every_span_for_its_model_and_for_all() -> None:
    write(record(NOON + 130, total_time=100.0))
    rows = RequestBucket.objects.values_list("seconds", "model", "start", "requests")
    starts = {60: NOON + 120, 300: NOON, 900: NOON, 3600: NOON}
    assert sorted(rows) == sorted(
        (seconds, model, start, 1) for seconds, start in starts.items() for model in ("", "alpha")
    )


def test_times_are_those_that_the_caller_waited() -> None:
    """The wait for a worker, and what came before it, too."""
    write(record(door_time=2.0, taken_time=0.5, accept_time=1.0, queue_time=0.25, prefill_time=0.25, total_time=3.0))
    assert (bucket().total_time, bucket().first_token_time) == (5.0, 3.5)
    assert bucket().first_token_p50 == pytest.approx(3.5, rel=0.01)
    RequestBucket.objects.all().delete()
    call_command("rebuild_metrics")
    assert (bucket().total_time, bucket().first_token_time) == (5.0, 3.5)


def test_later_ones_are_added_to_earlier_ones() -> None:
    write(record(total_time=0.5), record(total_time=1.5, model="beta"), record(state="failed"))
    write(record(total_time=4.0), record(state="cancelled", completion_tokens=3))
    total, alpha = bucket(), bucket(model="alpha")
    assert (total.requests, total.completed, total.failed, total.cancelled) == (5, 3, 1, 1)
    assert (alpha.requests, alpha.completed) == (4, 2)
    assert (total.prompt_tokens, total.completion_tokens) == (50, 83)
    assert total.total_time == pytest.approx(6.0)
    assert total.first_token_time == pytest.approx(0.9)
    assert total.latency_p50 == pytest.approx(1.5, rel=0.01)
    assert total.latency_p99 == pytest.approx(4.0, rel=0.01)
    assert total.first_token_p95 == pytest.approx(0.3, rel=0.01)
    assert alpha.latency_p50 == pytest.approx(0.5, rel=0.01)


def test_without_a_completed_request_there_are_no_percentiles() -> None:
    write(record(state="failed"))
    assert (bucket().latency_p50, bucket().first_token_p99, bucket().total_time) == (None, None, 0.0)


def test_records_that_are_rolled_back_were_never_counted() -> None:
    with transaction.atomic():
        rollups.add([record()])
        transaction.set_rollback(True)
    assert not RequestBucket.objects.exists()


def test_the_recorder_tells_it() -> None:
    with transaction.atomic():
        tell_listeners([record()])
    assert bucket().requests == 1


def test_workers_that_count_at_once_lose_nothing() -> None:
    failures: list[BaseException] = []

    def count() -> None:
        try:
            for number in range(10):
                write(record(model="alpha" if number % 2 else "beta"), record(NOON + 60))
        except Exception as error:  # noqa: BLE001
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (bucket().requests, bucket(start=NOON + 60).requests, bucket(seconds=3600).requests) == (40, 40, 80)
    assert bucket(model="beta").requests == 20


def test_all_can_be_counted_anew_from_the_records() -> None:
    write(record(), record(model="beta", total_time=2.5), record(NOON + 70, state="failed"))
    columns = [field.name for field in RequestBucket._meta.fields if field.name != "id"]
    before = sorted(map(str, RequestBucket.objects.values(*columns)))
    RequestBucket.objects.filter(seconds=60).delete()
    RequestBucket.objects.update(requests=99, latencies="{}", latency_p50=None)
    call_command("rebuild_metrics")
    assert RequestRecord.objects.count() == 3
    assert sorted(map(str, RequestBucket.objects.values(*columns))) == before
