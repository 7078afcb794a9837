"""What the requests' records tell; nothing here writes."""

from datetime import timedelta

from django.db.models import Avg, F, Q, Sum
from django.utils import timezone

from inference.models import RequestRecord
from models_mgmt.performance import Performance

LATELY = timedelta(hours=24)


def model_performance(model_id: str) -> Performance:
    """Speed and latency of a model's completed requests of the last day, and the number of all its requests."""
    records = RequestRecord.objects.filter(model=model_id)
    completed = records.filter(created_at__gte=timezone.now() - LATELY, state=RequestRecord.State.COMPLETED)
    # The first token belongs to the prefill, so a completion of n tokens decodes n - 1 of them.
    decoded = Q(completion_tokens__gt=1, decode_time__gt=0)
    figures = completed.aggregate(
        latency=Avg("total_time"),
        tokens=Sum(F("completion_tokens") - 1, filter=decoded),
        seconds=Sum("decode_time", filter=decoded),
    )
    return Performance(
        tokens_per_second=round(figures["tokens"] / figures["seconds"], 2) if figures["seconds"] else None,
        avg_latency=round(figures["latency"], 4) if figures["latency"] is not None else None,
        total_requests=records.count(),
    )
