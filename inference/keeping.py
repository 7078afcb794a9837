"""Writes the records of ended requests and all that is added up of them."""

import logging
from collections.abc import Sequence

from django.db import transaction

from accounts import usage
from common.request_id import request_id as current_request_id
from inference import totals
from inference.models import RequestRecord
from inference.record_listeners import tell_listeners

logger = logging.getLogger(__name__)


def keep(records: Sequence[RequestRecord]) -> None:
    """Write records, and add them up, in one transaction. Raises DatabaseError."""
    with transaction.atomic():
        RequestRecord.objects.bulk_create(records)
        usage.add(map(_spent, records))
        totals.add(records)
        tell_listeners(records)


def log(record: RequestRecord) -> None:
    """Write an ended request's line of the log."""
    token = current_request_id.set(record.request_id)
    logger.info(
        "%s %s on %s: %s, %d prompt and %d new tokens, queued %.3f s, %.3f s in all",
        record.kind,
        record.state,
        record.model,
        record.error_code or record.cancel_reason or record.finish_reason,
        record.prompt_tokens,
        record.completion_tokens,
        record.queue_time,
        record.total_time,
    )
    current_request_id.reset(token)


def _spent(record: RequestRecord) -> usage.Spent:
    day = record.created_at.date()
    return usage.Spent(
        account=usage.Account(day, record.user_id or 0, record.key_id or 0, record.model),
        state=record.state,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        cached_tokens=record.cached_tokens,
    )
