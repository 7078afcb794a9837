"""What keys and users have used of the models, day by day."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

from django.db import IntegrityError, transaction
from django.db.models import F, QuerySet, Sum

from accounts.models import ApiKey, DailyUsage, User

COUNTED = ("requests", "completed", "failed", "cancelled", "prompt_tokens", "completion_tokens", "cached_tokens")


class Account(NamedTuple):
    """Where a request is added to. 0: no user, no key."""

    day: date
    user_id: int
    key_id: int
    model: str


@dataclass(frozen=True, slots=True)
class Spent:
    """One ended request. `state`: `completed`, `failed` or `cancelled`."""

    account: Account
    state: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


def add(requests: Iterable[Spent]) -> None:
    """Add ended requests up. To be called in the transaction that writes their records, so that both stay true."""
    sums: dict[Account, Counter[str]] = defaultdict(Counter)
    for spent in requests:
        sums[spent.account].update(
            {
                "requests": 1,
                spent.state: 1,
                "prompt_tokens": spent.prompt_tokens,
                "completion_tokens": spent.completion_tokens,
                "cached_tokens": spent.cached_tokens,
            }
        )
    for account in sorted(sums):  # always in this order, so that no two workers wait for each other
        _add(account, sums[account])


def _add(account: Account, counted: Counter[str]) -> None:
    where = account._asdict()
    more: dict[str, Any] = {name: F(name) + number for name, number in counted.items()}
    if DailyUsage.objects.filter(**where).update(**more):
        return
    try:
        with transaction.atomic():
            DailyUsage.objects.create(**where, **counted)
    except IntegrityError:  # another worker was first
        DailyUsage.objects.filter(**where).update(**more)


def find(
    *,
    since: date,
    until: date,
    user_id: int | None = None,
    key_id: int | None = None,
    model: str | None = None,
) -> QuerySet[DailyUsage]:
    """The rows of these days, both included, the latest day first."""
    wanted = {"user_id": user_id, "key_id": key_id, "model": model}
    rows = DailyUsage.objects.filter(day__range=(since, until))
    return rows.filter(**{name: value for name, value in wanted.items() if value is not None})


def total(rows: QuerySet[DailyUsage]) -> dict[str, int]:
    """The sums of rows."""
    sums = rows.order_by().aggregate(**{name: Sum(name, default=0) for name in COUNTED})
    return {name: int(value) for name, value in sums.items()}


def names_of(rows: Iterable[DailyUsage]) -> tuple[dict[int, str], dict[int, ApiKey]]:
    """The names of the users and the keys that the rows speak of; those that are gone are missing."""
    rows = list(rows)
    users = User.objects.in_bulk({row.user_id for row in rows})
    keys = ApiKey.objects.in_bulk({row.key_id for row in rows})
    return {number: user.username for number, user in users.items()}, keys
