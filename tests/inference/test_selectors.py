from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from inference import totals
from inference.models import RequestRecord
from inference.selectors import model_performance
from models_mgmt.performance import Figures, Performance, performance_of

pytestmark = pytest.mark.django_db


def record(**fields: object) -> RequestRecord:
    usual = {
        "request_id": "req_1",
        "model": "llama",
        "kind": "infer",
        "state": "completed",
        "backend": "cpu",
        "worker": "w",
        "created_at": timezone.now(),
    }
    return RequestRecord.objects.create(**{**usual, **fields})


def test_speed_and_latency_are_of_completed_requests_of_the_last_hour_and_of_all() -> None:
    kept = [
        record(completion_tokens=11, decode_time=1.0, total_time=1.5),
        record(completion_tokens=31, decode_time=1.0, total_time=2.5),
        record(completion_tokens=1, decode_time=0.0, total_time=0.5),
        record(state="failed", total_time=100.0),
        record(completion_tokens=61, decode_time=2.0, total_time=1.5, created_at=timezone.now() - timedelta(hours=2)),
        record(model="other", completion_tokens=1000, decode_time=1.0, total_time=1.0),
    ]
    totals.add(kept[:2])
    totals.add(kept[2:])

    measured = model_performance("llama")

    assert measured.lately == Figures(tokens_per_second=20.0, avg_latency=1.5, requests=4)
    assert measured.total == Figures(tokens_per_second=25.0, avg_latency=1.5, requests=5)


def test_totals_outlive_the_records() -> None:
    totals.add([record(completion_tokens=11, decode_time=1.0, total_time=1.5)])
    RequestRecord.objects.all().delete()

    assert model_performance("llama").total == Figures(tokens_per_second=10.0, avg_latency=1.5, requests=1)
    assert model_performance("llama").lately == Figures()


def test_the_number_of_all_requests_is_not_counted_anew(django_assert_max_num_queries: Any) -> None:
    with django_assert_max_num_queries(2) as asked:
        model_performance("llama")
    assert "created_at" in asked[0]["sql"]
    assert "inference_modeltotal" in asked[1]["sql"]


def test_nothing_measured_is_none() -> None:
    assert performance_of("unused") == Performance()
