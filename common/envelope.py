"""The shapes of every JSON answer: success and failure."""

import json
from datetime import UTC, datetime
from typing import Any

from django.http import HttpResponse

from common.errors import ApiError
from common.request_id import request_id


def timestamp(moment: datetime | None = None) -> str:
    """ISO 8601 in UTC with a `Z`, to the millisecond; now, if no moment is given."""
    moment = (moment or datetime.now(UTC)).astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def success(**fields: Any) -> dict[str, Any]:
    return {"success": True, **fields}


def failure(error: ApiError, request_id: str) -> dict[str, Any]:
    """The body of a failed request."""
    return {
        "success": False,
        "error": {"code": error.code, "message": error.message, "details": error.details},
        "request_id": request_id,
        "timestamp": timestamp(),
    }


class ErrorResponse(HttpResponse):
    """A failure of the current request, ready to be sent. Its type tells the middleware that nothing is left to do."""

    def __init__(self, error: ApiError) -> None:
        self.error = error
        body = json.dumps(failure(error, request_id.get()), default=str)
        super().__init__(body, content_type="application/json", status=error.status, headers=error.headers)
