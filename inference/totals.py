"""Sums over each model's requests since its first one, kept up as their records are written: never counted anew."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import F

from inference.models import ModelTotal, RequestRecord


@dataclass(slots=True)
class _Sum:
    requests: int = 0
    completed: int = 0
    latency: float = 0.0
    decoded_tokens: int = 0
    decode_seconds: float = 0.0


def add(records: Iterable[RequestRecord]) -> None:
    """Add records to their models' totals, in the transaction that writes them."""
    sums: dict[str, _Sum] = defaultdict(_Sum)
    for record in records:
        total = sums[record.model]
        total.requests += 1
        if record.state != RequestRecord.State.COMPLETED:
            continue
        total.completed += 1
        total.latency += record.total_time
        if record.completion_tokens > 1 and record.decode_time > 0:  # the first token belongs to the prefill
            total.decoded_tokens += record.completion_tokens - 1
            total.decode_seconds += record.decode_time
    for model, total in sorted(sums.items()):  # in one order, so that two workers never wait for each other
        ModelTotal.objects.get_or_create(model=model)
        ModelTotal.objects.filter(model=model).update(
            requests=F("requests") + total.requests,
            completed=F("completed") + total.completed,
            latency=F("latency") + total.latency,
            decoded_tokens=F("decoded_tokens") + total.decoded_tokens,
            decode_seconds=F("decode_seconds") + total.decode_seconds,
        )
