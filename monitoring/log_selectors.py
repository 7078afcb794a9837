"""Finds lines of the log; nothing here writes."""

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet

from common.errors import InvalidInput
from monitoring.models import LogEntry

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Found:
    """One page of the lines that were asked for, newest first, and how many there are without and with the filters."""

    entries: list[LogEntry]
    total: int
    filtered: int
    next_cursor: str | None


def find(query: dict[str, Any]) -> Found:
    """`query`: what LogsQuery has parsed. Raises InvalidInput for a cursor that is none."""
    level = LogEntry.Level[query["level"].upper()]
    rows = LogEntry.objects.filter(level__gte=level)
    for parameter, lookup in (
        ("since", "at__gte"),
        ("component", "component"),
        ("search", "message__icontains"),
        ("request_id", "request_id"),
    ):
        if parameter in query:
            rows = rows.filter(**{lookup: query[parameter]})
    page = list(_after(rows, query.get("cursor")).order_by("-at", "-pk")[: query["limit"] + 1])
    entries = page[: query["limit"]]
    return Found(
        entries=entries,
        total=LogEntry.objects.count(),
        filtered=rows.count(),
        next_cursor=_cursor_of(entries[-1]) if len(page) > len(entries) else None,
    )


def _after(rows: QuerySet[LogEntry], cursor: str | None) -> QuerySet[LogEntry]:
    """Lines of several processes come in batches, so a row's number alone does not tell its place."""
    if cursor is None:
        return rows
    at, pk = _decoded(cursor)
    return rows.filter(Q(at__lt=at) | Q(at=at, pk__lt=pk))


def _cursor_of(entry: LogEntry) -> str:
    microseconds = (entry.at - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(f"{microseconds}:{entry.pk}".encode()).decode().rstrip("=")


def _decoded(cursor: str) -> tuple[datetime, int]:
    try:
        at, _, pk = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(":")
        if not 0 <= int(pk) < 2**63:
            raise ValueError(cursor)
        return _EPOCH + timedelta(microseconds=int(at)), int(pk)
    except (binascii.Error, UnicodeError, ValueError, OverflowError):
        raise InvalidInput("This is no cursor of ours.", field="cursor") from None
