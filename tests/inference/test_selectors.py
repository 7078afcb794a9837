from datetime import timedelta

import pytest
from django.utils import timezone

from inference.models import RequestRecord
from inference.selectors import model_performance
from models_mgmt.performance import Performance, performance_of

pytestmark = pytest.mark.django_db


def record(**fields: object) -> None:
    usual = {
        "request_id": "req_1",
        "model": "llama",
        "kind": "infer",
        "state": "completed",
        "backend": "cpu",
        "worker": "w",
        "created_at": timezone.now(),
    }
    RequestRecord.objects.create(**{**usual, **fields})


def test_speed_and_latency_are_of_completed_requests_lately() -> None:
    record(completion_tokens=11, decode_time=1.0, total_time=1.5)
    record(completion_tokens=31, decode_time=1.0, total_time=2.5)
    record(completion_tokens=1, decode_time=0.0, total_time=0.5)
    record(state="failed", total_time=100.0)
    record(completion_tokens=1000, decode_time=1.0, total_time=50.0, created_at=timezone.now() - timedelta(days=2))
    record(model="other", completion_tokens=1000, decode_time=1.0, total_time=1.0)
    assert model_performance("llama") == Performance(tokens_per_second=20.0, avg_latency=1.5, total_requests=5)


def test_nothing_measured_is_none() -> None:
    assert performance_of("unused") == Performance(tokens_per_second=None, avg_latency=None, total_requests=0)
