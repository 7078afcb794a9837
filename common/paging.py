"""Lists that are read page by page, from a cursor on, so that rows that come or go meanwhile shift nothing."""

import base64
import binascii
from typing import Any, TypeVar

from django.db import models
from django.db.models import QuerySet
from rest_framework import serializers

from common.errors import InvalidInput
from common.serializers import StrictSerializer

M = TypeVar("M", bound=models.Model)
DEFAULT_LIMIT = 100
MAX_LIMIT = 1000


class PageQuery(StrictSerializer):
    """The parameters that every such list takes."""

    limit = serializers.IntegerField(
        required=False, default=DEFAULT_LIMIT, min_value=1, max_value=MAX_LIMIT, help_text="Entries on a page."
    )
    cursor = serializers.CharField(
        required=False, max_length=100, help_text="`next_cursor` of the page before; none for the first page."
    )


def page(rows: QuerySet[M], query: dict[str, Any], *, newest_first: bool = False) -> tuple[list[M], str | None]:
    """One page by id, and the cursor of the next one, None after the last. `query`: what PageQuery has parsed.

    Raises InvalidInput for a cursor that is none.
    """
    limit = query["limit"]
    rows = rows.order_by("-pk" if newest_first else "pk")
    if "cursor" in query:
        rows = rows.filter(**{"pk__lt" if newest_first else "pk__gt": _decoded(query["cursor"])})
    found = list(rows[: limit + 1])
    return found[:limit], _encoded(found[limit - 1].pk) if len(found) > limit else None


def _encoded(pk: int) -> str:
    return base64.urlsafe_b64encode(f"after:{pk}".encode()).decode().rstrip("=")


def _decoded(cursor: str) -> int:
    try:
        start, _, number = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(":")
        if start != "after" or not 0 <= int(number) < 2**63:
            raise ValueError(cursor)
        return int(number)
    except (binascii.Error, UnicodeError, ValueError):
        raise InvalidInput("This is no cursor of ours.", field="cursor") from None
