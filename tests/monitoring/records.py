"""Records of requests as the workers write them, for tests."""

from datetime import UTC, datetime
from typing import Any

from django.db import transaction

from accounts import usage
from inference.models import RequestRecord
from monitoring import rollups

# A Thursday, 12:00 UTC: the beginning of an hour.
NOON = 1_767_268_800.0


def record(ended: float = NOON, *, total_time: float = 1.0, **fields: Any) -> RequestRecord:
    """A completed request for the model `alpha` that ended at that time."""
    return RequestRecord(
        **{
            "request_id": "req_of_a_test",
            "model": "alpha",
            "kind": "infer",
            "state": "completed",
            "finish_reason": "stop",
            "backend": "cpu",
            "worker": "host/cpu",
            "prompt_tokens": 10,
            "completion_tokens": 20,
            "accept_time": 0.05,
            "queue_time": 0.05,
            "prefill_time": 0.2,
            "decode_time": 0.7,
            "total_time": total_time,
            "created_at": datetime.fromtimestamp(ended - total_time, UTC),
            **fields,
        }
    )


def write(*records: RequestRecord) -> None:
    """As the recorder does."""
    with transaction.atomic():
        RequestRecord.objects.bulk_create(records)
        usage.add(
            usage.Spent(
                account=usage.Account(item.created_at.date(), item.user_id or 0, item.key_id or 0, item.model),
                state=item.state,
                prompt_tokens=item.prompt_tokens,
                completion_tokens=item.completion_tokens,
                cached_tokens=item.cached_tokens,
            )
            for item in records
        )
        rollups.add(records)
