"""What the requests' records tell; nothing here writes."""

from datetime import timedelta

from django.db.models import Avg, Count, F, Q, Sum
from django.utils import timezone

from inference.models import ModelTotal, RequestRecord
from models_mgmt.performance import Figures, Performance

LATELY = timedelta(hours=1)


def model_performance(model_id: str) -> Performance:
    """Speed, latency and number of a model's requests in the last hour, and of all of them."""
    return Performance(lately=_lately(model_id), total=_total(model_id))


def _lately(model_id: str) -> Figures:
    records = RequestRecord.objects.filter(model=model_id, created_at__gte=timezone.now() - LATELY)
    completed = Q(state=RequestRecord.State.COMPLETED)
    # The first token belongs to the prefill, so a completion of n tokens decodes n - 1 of them.
    decoded = completed & Q(completion_tokens__gt=1, decode_time__gt=0)
    figures = records.aggregate(
        requests=Count("pk"),
        latency=Avg("total_time", filter=completed),
        tokens=Sum(F("completion_tokens") - 1, filter=decoded),
        seconds=Sum("decode_time", filter=decoded),
    )
    return Figures(
        tokens_per_second=_ratio(figures["tokens"], figures["seconds"], 2),
        avg_latency=_ratio(figures["latency"], 1, 4),
        requests=figures["requests"],
    )


def _total(model_id: str) -> Figures:
    total = ModelTotal.objects.filter(model=model_id).first()
    if total is None:
        return Figures()
    return Figures(
        tokens_per_second=_ratio(total.decoded_tokens, total.decode_seconds, 2),
        avg_latency=_ratio(total.latency, total.completed, 4),
        requests=total.requests,
    )


def _ratio(amount: float | None, of: float | None, digits: int) -> float | None:
    return round(amount / of, digits) if amount is not None and of else None
