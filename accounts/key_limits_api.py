"""The door that tells how much of its limits a key has used."""

from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.credentials import caller_behind
from accounts.doors import Door
from accounts.limits import limit_for, look
from accounts.selectors import get_key
from accounts.usage_api import BudgetBody, budget_body
from common.envelope import success


class GroupLimitBody(serializers.Serializer[Any]):
    """Requests to an endpoint group in its running window."""

    group = serializers.CharField()
    limit = serializers.IntegerField()
    used = serializers.IntegerField()
    remaining = serializers.IntegerField()
    window = serializers.IntegerField(help_text="Seconds.")
    reset = serializers.IntegerField(allow_null=True, help_text="Unix time; null before the first request of a window.")


class KeyLimitsResponse(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    limits = GroupLimitBody(many=True, help_text="None of a key that opens nothing any more.")
    budget = BudgetBody(allow_null=True)


class KeyLimits(Door):
    limit_group = "accounts"

    @extend_schema(operation_id="get_key_limits", tags=["Keys"], responses=KeyLimitsResponse)
    async def get(self, request: Request, key_id: int) -> Response:
        """How much of its rate limits and of its token budget a key has used. To look counts for whoever looks."""
        key = await sync_to_async(get_key)(self.caller, key_id)
        caller = await sync_to_async(caller_behind)(user_id=key.owner_id, key_id=key.pk)
        if caller is None:
            return Response(success(limits=[], budget=None))
        limits = []
        for group, (_, _, window) in settings.RATE_LIMITS.items():
            standing = await look(f"{group}:{caller.identity}", limit=limit_for(group, caller), window=window)
            used = standing.limit - standing.remaining
            limits.append(
                {
                    "group": group,
                    "limit": standing.limit,
                    "used": used,
                    "remaining": standing.remaining,
                    "window": window,
                    "reset": standing.reset if used else None,
                }
            )
        return Response(success(limits=limits, budget=await budget_body(caller)))
