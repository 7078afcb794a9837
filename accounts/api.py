"""The doors of sign-in, users, keys and the audit."""

from datetime import timedelta
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import services, tokens
from accounts.audit import calling, signed_in
from accounts.doors import Door
from accounts.keys import create_api_key, reach_of, revoke_api_key, rotate_api_key, update_api_key
from accounts.login import log_in
from accounts.models import User
from accounts.selectors import find_audit_entries, find_keys, find_users, get_key, get_user
from accounts.serializers import (
    AuditQuery,
    AuditResponse,
    KeyPatchRequest,
    KeyRequest,
    KeyResponse,
    KeysQuery,
    KeysResponse,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    MeResponse,
    MessageResponse,
    NewKeyResponse,
    OwnPasswordRequest,
    PasswordRequest,
    RefreshRequest,
    RefreshResponse,
    RotateRequest,
    UserPatchRequest,
    UserRequest,
    UserResponse,
    UsersQuery,
    UsersResponse,
    account_body,
    audit_body,
    credential_body,
    key_body,
    user_body,
)
from common.client_address import counted_address
from common.envelope import success
from common.errors import AuthenticationFailed, InvalidInput, PermissionDenied
from common.openapi import ErrorResponseBody
from common.paging import page

NOT_STORED = {"Cache-Control": "no-store"}
sign_in_schema = partial(extend_schema, tags=["Authentication"])
user_schema = partial(extend_schema, tags=["Users"])
key_schema = partial(extend_schema, tags=["Keys"])


# ---------------------------------------------------------------- sign-in
class Login(Door):
    permission = None
    limit_group = "auth"

    @sign_in_schema(operation_id="login", request=LoginRequest, responses={200: LoginResponse, 401: ErrorResponseBody})
    async def post(self, request: Request) -> Response:
        """Sign in with a username and a password; the answer holds a token for an hour and one to renew it with."""
        fields = LoginRequest.parse(request.data)
        user = await log_in(username=fields["username"], password=fields["password"], address=counted_address(request))
        return await _signed_in(user, request)


class Refresh(Door):
    permission = None
    limit_group = "auth"

    @sign_in_schema(
        operation_id="refresh_token", request=RefreshRequest, responses={200: RefreshResponse, 401: ErrorResponseBody}
    )
    async def post(self, request: Request) -> Response:
        """Get a new token for a refresh token."""
        fields = RefreshRequest.parse(request.data)
        token, user = await sync_to_async(tokens.renew)(fields["refresh_token"])
        return Response(success(token=token, **_session(user)), headers=NOT_STORED)


class Logout(Door):
    limit_group = "auth"

    @sign_in_schema(operation_id="logout", request=LogoutRequest, responses=MessageResponse)
    async def post(self, request: Request) -> Response:
        """End a session of yours: its refresh token at once, its access tokens within a second."""
        fields = LogoutRequest.parse(request.data)
        if "refresh_token" not in fields and not self.caller.session_id:
            raise InvalidInput("A key has no session; send the refresh token of the one to end.", field="refresh_token")

        def sign_out() -> None:
            services.sign_out(
                caller=self.caller, refresh_token=fields.get("refresh_token"), actor=calling(self.caller, request)
            )

        await sync_to_async(sign_out)()
        return Response(success(message="Logged out successfully"))


class Me(Door):
    limit_group = "auth"

    @sign_in_schema(operation_id="get_me", responses=MeResponse)
    async def get(self, request: Request) -> Response:
        """Who you are, and what the credential that you sent allows."""
        user = await _calling_user(self)
        return Response(success(user=user_body(user), credential=credential_body(self.caller)))


class OwnPassword(Door):
    limit_group = "auth"

    @sign_in_schema(operation_id="change_password", request=OwnPasswordRequest, responses=LoginResponse)
    async def post(self, request: Request) -> Response:
        """Change your password. Your tokens and sessions end; the answer holds new tokens."""
        fields = OwnPasswordRequest.parse(request.data)
        user = await _calling_user(self)
        try:
            await log_in(username=user.username, password=fields["current_password"], address=counted_address(request))
        except AuthenticationFailed:
            raise InvalidInput("This is not your password.", field="current_password") from None
        await sync_to_async(services.set_password)(
            user=user, password=fields["new_password"], field="new_password", actor=calling(self.caller, request)
        )
        return await _signed_in(await User.objects.aget(pk=user.pk), request)


async def _signed_in(user: User, request: Request) -> Response:
    token, refresh_token = await sync_to_async(services.sign_in)(user=user, actor=signed_in(user, request, "password"))
    return Response(success(token=token, refresh_token=refresh_token, **_session(user)), headers=NOT_STORED)


def _session(user: User) -> dict[str, Any]:
    return {"expires_in": settings.ACCESS_TOKEN_SECONDS, "user": user_body(user)}


async def _calling_user(door: Door) -> User:
    """The caller's row; raises AuthenticationFailed for callers without credentials, whom an operator may let in."""
    if door.caller.user_id is None:
        raise AuthenticationFailed
    return await User.objects.aget(pk=door.caller.user_id)


# ---------------------------------------------------------------- users
class Users(Door):
    permission = "admin"
    limit_group = "accounts"

    @user_schema(operation_id="list_users", parameters=[UsersQuery], responses=UsersResponse)
    async def get(self, request: Request) -> Response:
        """The users, page by page."""
        query = UsersQuery.parse(request.query_params.dict())
        found = find_users(search=query.get("search", ""), role=query.get("role", ""), active=query.get("active"))
        users, cursor = await sync_to_async(page)(found, query)
        return Response(success(users=[account_body(user) for user in users], next_cursor=cursor))

    @user_schema(operation_id="create_user", request=UserRequest, responses={201: UserResponse})
    async def post(self, request: Request) -> Response:
        """Make a user."""
        fields = UserRequest.parse(request.data)
        user = await sync_to_async(services.create_user)(**fields, actor=calling(self.caller, request))
        return Response(success(user=account_body(user)), status=201)


class UserDetail(Door):
    permission = "admin"
    limit_group = "accounts"

    @user_schema(operation_id="get_user", responses=UserResponse)
    async def get(self, request: Request, username: str) -> Response:
        """One user."""
        return Response(success(user=account_body(await sync_to_async(get_user)(username))))

    @user_schema(operation_id="update_user", request=UserPatchRequest, responses=UserResponse)
    async def patch(self, request: Request, username: str) -> Response:
        """Change a user's role, or disable them. It acts on their keys and tokens within a second."""
        changes = UserPatchRequest.parse(request.data)
        actor = calling(self.caller, request)

        def update() -> User:
            services.update_user(user=get_user(username), changes=changes, actor=actor)
            return get_user(username)

        return Response(success(user=account_body(await sync_to_async(update)())))

    @user_schema(operation_id="delete_user", responses=MessageResponse)
    async def delete(self, request: Request, username: str) -> Response:
        """Delete a user and their keys. What they did stays in the audit."""
        user = await sync_to_async(get_user)(username)
        await sync_to_async(services.delete_user)(user=user, actor=calling(self.caller, request))
        return Response(success(message="User deleted successfully"))


class UserPassword(Door):
    permission = "admin"
    limit_group = "accounts"

    @user_schema(operation_id="set_user_password", request=PasswordRequest, responses=MessageResponse)
    async def put(self, request: Request, username: str) -> Response:
        """Give a user a new password. Their tokens and sessions end; their keys go on."""
        fields = PasswordRequest.parse(request.data)
        user = await sync_to_async(get_user)(username)
        await sync_to_async(services.set_password)(
            user=user, password=fields["password"], actor=calling(self.caller, request)
        )
        return Response(success(message="Password set successfully"))


# ---------------------------------------------------------------- keys
class Keys(Door):
    limit_group = "accounts"

    @key_schema(operation_id="list_keys", parameters=[KeysQuery], responses=KeysResponse)
    async def get(self, request: Request) -> Response:
        """Your keys; every user's for administrators. Page by page."""
        await _calling_user(self)
        query = KeysQuery.parse(request.query_params.dict())
        found = find_keys(self.caller, owner=query.get("owner", ""), state=query.get("state", ""))
        keys, cursor = await sync_to_async(page)(found, query)
        return Response(success(api_keys=[key_body(key) for key in keys], next_cursor=cursor))

    @key_schema(operation_id="create_key", request=KeyRequest, responses={201: NewKeyResponse})
    async def post(self, request: Request) -> Response:
        """Make a key, with no more permissions than yours. This answer is the only one that ever holds it."""
        fields = KeyRequest.parse(request.data)
        owner = await self._owner(fields.pop("owner", None))
        if fields.get("permissions", "read") not in owner.permissions:
            raise InvalidInput(
                f"A key of this user can't have more than their role, {owner.role}.", field="permissions"
            )
        row, key = await sync_to_async(create_api_key)(
            owner=owner,
            **KeyRequest.as_fields(fields),
            actor=calling(self.caller, request),
            reach=reach_of(self.caller),
        )
        return Response(success(key=key, api_key=key_body(row)), status=201, headers=NOT_STORED)

    async def _owner(self, username: str | None) -> User:
        user = await _calling_user(self)
        if username is None or username == user.username:
            return user
        if not self.caller.is_admin:
            raise PermissionDenied("Only administrators make keys for others.", details={"required": "admin"})
        owner = await User.objects.filter(username=username).afirst()
        if owner is None:
            raise InvalidInput("There is no such user.", field="owner")
        return owner


class KeyDetail(Door):
    limit_group = "accounts"

    @key_schema(operation_id="get_key", responses=KeyResponse)
    async def get(self, request: Request, key_id: int) -> Response:
        """One key, without its secret."""
        return Response(success(api_key=key_body(await sync_to_async(get_key)(self.caller, key_id))))

    @key_schema(operation_id="update_key", request=KeyPatchRequest, responses=KeyResponse)
    async def patch(self, request: Request, key_id: int) -> Response:
        """Rename a key, narrow its permissions, let it expire earlier. Permissions are never widened."""
        changes = KeyPatchRequest.as_fields(KeyPatchRequest.parse(request.data))
        key = await sync_to_async(get_key)(self.caller, key_id)
        key = await sync_to_async(update_api_key)(
            key=key, changes=changes, actor=calling(self.caller, request), reach=reach_of(self.caller)
        )
        return Response(success(api_key=key_body(key)))

    @key_schema(operation_id="revoke_key", responses=MessageResponse)
    async def delete(self, request: Request, key_id: int) -> Response:
        """Revoke a key. It opens nothing within a second; its record stays."""
        key = await sync_to_async(get_key)(self.caller, key_id)
        await sync_to_async(revoke_api_key)(key=key, actor=calling(self.caller, request), reach=reach_of(self.caller))
        return Response(success(message="API key revoked successfully"))


class KeyRotation(Door):
    limit_group = "accounts"

    @key_schema(operation_id="rotate_key", request=RotateRequest, responses=NewKeyResponse)
    async def post(self, request: Request, key_id: int) -> Response:
        """Replace a key by a new one with the same id and rights; the old one works until the grace time is over."""
        fields = RotateRequest.parse(request.data)
        key = await sync_to_async(get_key)(self.caller, key_id)
        row, secret = await sync_to_async(rotate_api_key)(
            key=key,
            actor=calling(self.caller, request),
            reach=reach_of(self.caller),
            grace=timedelta(seconds=fields["grace_seconds"]),
        )
        return Response(success(key=secret, api_key=key_body(row)), headers=NOT_STORED)


# ---------------------------------------------------------------- audit
class Audit(Door):
    permission = "admin"
    limit_group = "accounts"

    @extend_schema(operation_id="list_audit", tags=["Audit"], parameters=[AuditQuery], responses=AuditResponse)
    async def get(self, request: Request) -> Response:
        """What was changed, by whom, when and from where; newest first, page by page."""
        query = AuditQuery.parse(request.query_params.dict())
        entries, cursor = await sync_to_async(page)(find_audit_entries(query), query, newest_first=True)
        return Response(success(entries=[audit_body(entry) for entry in entries], next_cursor=cursor))
