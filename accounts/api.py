"""The sign-in doors."""

from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import tokens
from accounts.doors import Door
from accounts.login import log_in
from accounts.models import User
from accounts.serializers import (
    LoginRequest,
    LoginResponse,
    MeResponse,
    MessageResponse,
    RefreshRequest,
    RefreshResponse,
    credential_body,
    user_body,
)
from common.client_address import counted_address
from common.envelope import success
from common.errors import AuthenticationFailed
from common.openapi import ErrorResponseBody

NOT_STORED = {"Cache-Control": "no-store"}


class Login(Door):
    permission = None
    limit_group = "auth"

    @extend_schema(
        operation_id="login",
        tags=["Authentication"],
        request=LoginRequest,
        responses={200: LoginResponse, 401: ErrorResponseBody},
    )
    async def post(self, request: Request) -> Response:
        """Sign in with a username and a password; the answer holds a token for an hour and one to renew it with."""
        fields = LoginRequest.parse(request.data)
        user = await log_in(username=fields["username"], password=fields["password"], address=counted_address(request))
        token, refresh_token = tokens.issue(user)
        return Response(success(token=token, refresh_token=refresh_token, **_session(user)), headers=NOT_STORED)


class Refresh(Door):
    permission = None
    limit_group = "auth"

    @extend_schema(
        operation_id="refresh_token",
        tags=["Authentication"],
        request=RefreshRequest,
        responses={200: RefreshResponse, 401: ErrorResponseBody},
    )
    async def post(self, request: Request) -> Response:
        """Get a new token for a refresh token."""
        fields = RefreshRequest.parse(request.data)
        token, user = await sync_to_async(tokens.renew)(fields["refresh_token"])
        return Response(success(token=token, **_session(user)), headers=NOT_STORED)


class Logout(Door):
    limit_group = "auth"

    @extend_schema(operation_id="logout", tags=["Authentication"], request=RefreshRequest, responses=MessageResponse)
    async def post(self, request: Request) -> Response:
        """Revoke a refresh token of yours."""
        fields = RefreshRequest.parse(request.data)
        await sync_to_async(tokens.revoke)(fields["refresh_token"], username=self.caller.username)
        return Response(success(message="Logged out successfully"))


class Me(Door):
    limit_group = "auth"

    @extend_schema(operation_id="get_me", tags=["Authentication"], responses=MeResponse)
    async def get(self, request: Request) -> Response:
        """Who you are, and what the credential that you sent allows."""
        if self.caller.user_id is None:
            raise AuthenticationFailed
        user = await User.objects.aget(pk=self.caller.user_id)
        return Response(success(user=user_body(user), credential=credential_body(self.caller)))


def _session(user: User) -> dict[str, Any]:
    return {"expires_in": settings.ACCESS_TOKEN_SECONDS, "user": user_body(user)}
