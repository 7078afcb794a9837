"""One request's way through the server, stage by stage, from what was recorded of it."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.db.models import QuerySet

from accounts.caller import Caller
from common.envelope import timestamp
from common.errors import NotFound, PermissionDenied
from common.paging import page
from inference.models import RequestRecord
from inference.timeline import PREFILL, Stage, stages

_DIGITS = 6
# What a list's parameters are compared with.
_FILTERS = {
    "id": "request_id__startswith",
    "model": "model",
    "state": "state",
    "kind": "kind",
    "key": "key__prefix",
    "error_code": "error_code",
    "since": "created_at__gte",
    "until": "created_at__lt",
}


def find(request_id: str, caller: Caller) -> list[RequestRecord]:
    """The records of a request, one for each item of a batch. Clients may use an id again: the last use counts.

    Raises NotFound for what has not ended, is not recorded any more, or is another one's.
    """
    records = _visible_to(caller).filter(request_id=request_id)
    last = records.order_by("-created_at", "-pk").first()
    if last is None:
        raise NotFound("No ended request of yours has this id.", details={"request_id": request_id})
    batch = records.filter(created_at=last.created_at).select_related("user", "key").order_by("item", "pk")
    return [record for record in batch if (record.user_id, record.key_id) == (last.user_id, last.key_id)]


def listed(query: dict[str, Any], caller: Caller) -> tuple[list[RequestRecord], str | None]:
    """A page of the ended requests that the caller may see, newest first; `query`: what RequestsQuery has parsed.

    Raises PermissionDenied where somebody asks for another user's.
    """
    if (username := query.get("user")) not in {None, caller.username} and not caller.is_admin:
        raise PermissionDenied("You can only list your own requests.")
    wanted = {_FILTERS[name]: value for name, value in query.items() if name in _FILTERS}
    if username is not None:
        wanted["user__username"] = username
    return page(_visible_to(caller).filter(**wanted).select_related("user", "key"), query, newest_first=True)


def summarized(record: RequestRecord) -> dict[str, Any]:
    """What the list tells of a request."""
    return {
        "request_id": record.request_id,
        "item": record.item,
        "kind": record.kind,
        "model": record.model,
        "user": record.user.username if record.user is not None else None,
        "key": record.key.prefix if record.key is not None else None,
        "state": record.state,
        "finish_reason": record.finish_reason or None,
        "error_code": record.error_code or None,
        "prompt_tokens": record.prompt_tokens,
        "tokens_generated": record.completion_tokens,
        "time_to_first_token": _first_token(record, stages(record)),
        "total_time": round(record.total_time, _DIGITS),
        "submitted_at": timestamp(record.created_at),
        "ended_at": timestamp(record.created_at + timedelta(seconds=record.total_time)),
    }


def described(records: Sequence[RequestRecord]) -> dict[str, Any]:
    """What is told of a request, from its records."""
    first = records[0]
    return {
        "request_id": first.request_id,
        "kind": first.kind,
        "model": first.model,
        "user": first.user.username if first.user is not None else None,
        "key": first.key.prefix if first.key is not None else None,
        "submitted_at": timestamp(first.created_at),
        "state": _state(records),
        "items": [_item(record) for record in records],
    }


def _visible_to(caller: Caller) -> QuerySet[RequestRecord]:
    if "admin" in caller.permissions:
        return RequestRecord.objects.all()
    if caller.user_id is None:  # nobody can be told from anybody else
        return RequestRecord.objects.none()
    return RequestRecord.objects.filter(user_id=caller.user_id)


def _state(records: Sequence[RequestRecord]) -> str:
    """The worst of its items' states."""
    states = {record.state for record in records}
    for state in (RequestRecord.State.FAILED, RequestRecord.State.CANCELLED):
        if state in states:
            return str(state)
    return str(RequestRecord.State.COMPLETED)


def _item(record: RequestRecord) -> dict[str, Any]:
    timeline = stages(record)
    return {
        "item": record.item,
        "state": record.state,
        "finish_reason": record.finish_reason or None,
        "cancel_reason": record.cancel_reason or None,
        "error_code": record.error_code or None,
        "backend": record.backend,
        "worker": record.worker,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "tokens_generated": record.completion_tokens,
        "time_to_first_token": _first_token(record, timeline),
        "total_time": round(record.response_time, _DIGITS),
        "timeline": [
            {"stage": stage.name, "start": round(stage.start, _DIGITS), "seconds": round(stage.seconds, _DIGITS)}
            for stage in timeline
        ],
        "plugins": [{"plugin_id": plugin_id, **figures} for plugin_id, figures in sorted(record.plugins.items())],
    }


def _first_token(record: RequestRecord, timeline: Sequence[Stage]) -> float | None:
    """Seconds from arrival."""
    if not record.completion_tokens:
        return None
    for stage in timeline:
        if stage.name == PREFILL:
            return round(stage.start + stage.seconds, _DIGITS)
    return None
