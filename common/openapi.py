"""What the OpenAPI document says about all doors alike: failures, headers and credentials."""

from typing import Any, ClassVar

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from rest_framework import serializers

ERROR_STATUSES = {
    "400": "The request is not valid.",
    "401": "No credentials, or bad ones.",
    "403": "The permissions do not suffice.",
    "404": "There is no such thing.",
    "409": "Not possible in the present state.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "429": "Too many requests; `Retry-After` says when to come back.",
    "500": "The server failed.",
    "503": "A service that this needs is not available.",
}


class ErrorBody(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()
    details = serializers.DictField()


class ErrorResponseBody(serializers.Serializer[Any]):
    """The body of every failed request."""

    success = serializers.BooleanField(default=False)
    error = ErrorBody()
    request_id = serializers.CharField()
    timestamp = serializers.DateTimeField()


class DoorSchema(AutoSchema):
    """Adds to each operation what `accounts.doors.Door` does for it. `error_body`: how its failures look."""

    error_body: ClassVar[type[serializers.Serializer[Any]]] = ErrorResponseBody

    def get_auth(self) -> list[dict[str, Any]]:
        return [{"Bearer": []}, {"ApiKey": []}] if self._needs_credential else [{}]

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        operation = super().get_operation(*args, **kwargs)
        if operation is None:
            return None
        responses = operation["responses"]
        error = self._resolve_error()
        for status in self._error_statuses("requestBody" in operation):
            responses.setdefault(
                status,
                {"description": ERROR_STATUSES[status], "content": {"application/json": {"schema": error}}},
            )
        for status, response in responses.items():
            response.setdefault("headers", {}).update(self._headers_of(status))
        operation["responses"] = dict(sorted(responses.items()))
        return operation

    @property
    def _needs_credential(self) -> bool:
        return getattr(self.view, "permission", None) is not None

    @property
    def _is_limited(self) -> bool:
        return getattr(self.view, "limit_group", None) is not None

    def _error_statuses(self, has_body: bool) -> list[str]:
        wanted = ["400", "500"]
        if has_body:
            wanted += ["413", "415"]
        if self._needs_credential:
            wanted += ["401", "403"]
        if self._is_limited:
            wanted += ["429", "503"]
        if "{" in self.path:
            wanted += ["404"]
        return wanted

    def _resolve_error(self) -> dict[str, Any]:
        component: ResolvedComponent = self.resolve_serializer(self.error_body, "response")
        return component.ref

    def _headers_of(self, status: str) -> dict[str, Any]:
        headers = {
            "X-Request-ID": _header("string", "The id of this request, also in logs and events."),
            "X-API-Version": _header("string", "The version of this API."),
        }
        if self._is_limited:
            headers["X-RateLimit-Limit"] = _header("integer", "Requests allowed in this window.")
            headers["X-RateLimit-Remaining"] = _header("integer", "Requests left in this window.")
            headers["X-RateLimit-Reset"] = _header("integer", "Unix time at which the window ends.")
        if status in {"429", "503"}:
            headers["Retry-After"] = _header("integer", "Seconds until another try makes sense.")
        return headers


def _header(kind: str, description: str) -> dict[str, Any]:
    return {"schema": {"type": kind}, "description": description}
