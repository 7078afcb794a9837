"""GET /usage: what was used by day, key and model."""

from datetime import date, timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import budgets, usage
from accounts.caller import Caller
from accounts.doors import Door
from accounts.models import ApiKey, DailyUsage, User
from common.envelope import success
from common.errors import AuthenticationFailed, InvalidInput, PermissionDenied
from common.serializers import StrictSerializer

DEFAULT_DAYS = 30
MAX_DAYS = 366
MAX_ROWS = 10_000


class UsageQuery(StrictSerializer):
    since = serializers.DateField(required=False, help_text=f"First day (UTC); {DEFAULT_DAYS} days ago if left out.")
    until = serializers.DateField(required=False, help_text="Last day (UTC); today if left out.")
    user = serializers.CharField(required=False, max_length=150, help_text="Administrators only: one user's usage.")
    key = serializers.IntegerField(required=False, min_value=1, help_text="The usage of one key, by its id.")
    model = serializers.CharField(required=False, max_length=200)
    limit = serializers.IntegerField(required=False, min_value=1, max_value=MAX_ROWS, default=1000)
    offset = serializers.IntegerField(required=False, min_value=0, default=0)


class KeyNameBody(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    name = serializers.CharField(allow_null=True, help_text="null: the key is gone.")
    prefix = serializers.CharField(allow_null=True)


class UsageCounts(serializers.Serializer[Any]):
    requests = serializers.IntegerField()
    completed = serializers.IntegerField()
    failed = serializers.IntegerField()
    cancelled = serializers.IntegerField()
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField(help_text="Prompt and completion tokens together.")


class UsageBody(UsageCounts):
    day = serializers.DateField()
    user = serializers.CharField(allow_null=True, help_text="null: without credentials, or the user is gone.")
    key = KeyNameBody(allow_null=True, help_text="null: a token of /auth/login, or without credentials.")
    model = serializers.CharField()


class BudgetBody(serializers.Serializer[Any]):
    """Where a key's token budget stands."""

    tokens = serializers.IntegerField()
    used = serializers.IntegerField(help_text="Including what running requests have reserved.")
    reserved = serializers.IntegerField()
    remaining = serializers.IntegerField()
    window = serializers.IntegerField(help_text="Seconds.")
    reset = serializers.IntegerField(allow_null=True, help_text="Unix time; null before the first request of a window.")


class UsageResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    since = serializers.DateField()
    until = serializers.DateField()
    usage = UsageBody(many=True)
    total = UsageCounts()
    total_entries = serializers.IntegerField()
    budget = BudgetBody(allow_null=True)


class Usage(Door):
    limit_group = "accounts"

    @extend_schema(operation_id="get_usage", tags=["Accounts"], parameters=[UsageQuery], responses=UsageResponse)
    async def get(self, request: Request) -> Response:
        """Requests and tokens by day, key and model: your own, or everybody's for an administrator."""
        query = UsageQuery.parse(request.query_params.dict())
        since, until = _days(query)
        report = await sync_to_async(_report)(query, since, until, self.caller)
        return Response(success(since=since, until=until, **report, budget=await budget_body(self.caller)))


def _days(query: dict[str, Any]) -> tuple[date, date]:
    until = query.get("until", timezone.now().date())
    since = query.get("since", until - timedelta(days=DEFAULT_DAYS))
    if since > until:
        raise InvalidInput("since must not be after until.", field="since")
    if (until - since).days > MAX_DAYS:
        raise InvalidInput(f"At most {MAX_DAYS} days can be asked for.", field="since", details={"max_days": MAX_DAYS})
    return since, until


def _report(query: dict[str, Any], since: date, until: date, caller: Caller) -> dict[str, Any]:
    rows = usage.find(
        since=since, until=until, user_id=_whose(query, caller), key_id=query.get("key"), model=query.get("model")
    )
    page = list(rows[query["offset"] : query["offset"] + query["limit"]])
    users, keys = usage.names_of(page)
    return {
        "usage": [_row(row, users, keys) for row in page],
        "total": _with_total(usage.total(rows)),
        "total_entries": rows.count(),
    }


def _whose(query: dict[str, Any], caller: Caller) -> int | None:
    """The user whose usage is asked for; None for everybody's."""
    if caller.user_id is None:
        raise AuthenticationFailed
    name = query.get("user")
    if name is None or name == caller.username:
        return None if "admin" in caller.permissions and name is None else caller.user_id
    if "admin" not in caller.permissions:
        raise PermissionDenied(details={"required": "admin"})
    user = User.objects.filter(username=name).first()
    if user is None:
        raise InvalidInput("There is no user of this name.", field="user")
    return user.pk


def _row(row: DailyUsage, users: dict[int, str], keys: dict[int, ApiKey]) -> dict[str, Any]:
    key = keys.get(row.key_id)
    named = {"id": row.key_id, "name": key.name if key else None, "prefix": key.prefix if key else None}
    return {
        "day": row.day,
        "user": users.get(row.user_id),
        "key": named if row.key_id else None,
        "model": row.model,
        **_with_total({name: getattr(row, name) for name in usage.COUNTED}),
    }


def _with_total(counts: dict[str, int]) -> dict[str, int]:
    return {**counts, "total_tokens": counts["prompt_tokens"] + counts["completion_tokens"]}


async def budget_body(caller: Caller) -> dict[str, Any] | None:
    """Where the budget of the caller's key stands; None without one."""
    if caller.key_id is None or caller.budget is None:
        return None
    standing = await budgets.standing(caller.key_id, caller.budget)
    return {
        "tokens": standing.limit,
        "used": standing.used,
        "reserved": standing.reserved,
        "remaining": standing.remaining,
        "window": caller.budget.window,
        "reset": standing.reset or None,
    }
