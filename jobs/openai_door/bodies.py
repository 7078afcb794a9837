"""What OpenAI's clients send to /v1/files and /v1/batches, and how files and batches look to them."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from common.errors import InvalidInput
from inference.bodies import convert
from jobs.models import File, Job

ENDPOINTS = {
    "/v1/chat/completions": Job.Kind.CHAT_COMPLETIONS,
    "/v1/completions": Job.Kind.COMPLETIONS,
}
_ENDPOINT_OF = {kind: endpoint for endpoint, kind in ENDPOINTS.items()}
LEAST_LIFETIME, LONGEST_LIFETIME = 3600, 2_592_000
_STATUSES = {
    Job.State.VALIDATING: "validating",
    Job.State.QUEUED: "in_progress",
    Job.State.RUNNING: "in_progress",
    Job.State.COMPLETED: "completed",
    Job.State.CANCELLED: "cancelled",
    Job.State.EXPIRED: "expired",
}
# The field that holds the time of an end.
_ENDED_AT = {
    "completed": "completed_at",
    "failed": "failed_at",
    "cancelled": "cancelled_at",
    "expired": "expired_at",
}


class ExpiresAfter(msgspec.Struct, forbid_unknown_fields=True):
    """How long the answers are kept after they were made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=LEAST_LIFETIME, le=LONGEST_LIFETIME)]


class BatchBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/batches`."""

    input_file_id: Annotated[str, Meta(description="A file that was uploaded with the purpose `batch`.")]
    endpoint: Annotated[str, Meta(description="`/v1/chat/completions` or `/v1/completions`: of every line.")]
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


def parse_batch(data: Any) -> BatchBody:
    """Raises InvalidInput."""
    body = convert(data, BatchBody, "")
    if body.endpoint not in ENDPOINTS:
        details = {"supported": list(ENDPOINTS)}
        raise InvalidInput("Batches of this endpoint are not supported.", field="endpoint", details=details)
    return body


def parse_lifetime(fields: dict[str, str]) -> int | None:
    """Seconds that an upload is to be kept, as its form says. Raises InvalidInput."""
    given = {name: value for name, value in fields.items() if name.startswith("expires_after")}
    if not given:
        return None
    after = {name.removeprefix("expires_after[").rstrip("]"): value for name, value in given.items()}
    return convert(after, ExpiresAfter, "expires_after", strict=False).seconds


def file_body(file: File) -> dict[str, Any]:
    return {
        "id": file.pk,
        "object": "file",
        "bytes": file.size,
        "created_at": _time(file.created_at),
        "expires_at": _time(file.expires_at),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def batch_body(job: Job) -> dict[str, Any]:
    """A job as a batch. One all of whose lines have failed is completed to OpenAI; its errors are in the file."""
    status = _STATUSES.get(Job.State(job.state)) or ("failed" if job.error else "completed")
    outputs = {file.errors: file.pk for file in job.output_files.all()}
    times = dict.fromkeys(_ENDED_AT.values()) | {"cancelling_at": None, "finalizing_at": None}
    if status in _ENDED_AT:
        times[_ENDED_AT[status]] = _time(job.ended_at)
    if status == "cancelled":
        times["cancelling_at"] = _time(job.ended_at)
    elif status == "completed":
        times["finalizing_at"] = _time(job.ended_at)
    return {
        "id": job.pk,
        "object": "batch",
        "endpoint": _ENDPOINT_OF[Job.Kind(job.kind)],
        "model": job.model or None,
        "errors": {"object": "list", "data": [_error(job.error)]} if job.error else None,
        "input_file_id": job.input_file_id or "",
        "completion_window": "24h",
        "status": status,
        "output_file_id": outputs.get(False),
        "error_file_id": outputs.get(True),
        "created_at": _time(job.created_at),
        "in_progress_at": _time(job.started_at),
        "expires_at": _time(job.expires_at),
        **times,
        "request_counts": {"total": job.total, "completed": job.completed, "failed": job.failed},
        "metadata": job.metadata or None,
    }


def list_body(data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def _error(error: dict[str, Any]) -> dict[str, Any]:
    details = error.get("details") or {}
    return {
        "code": str(error["code"]).lower(),
        "message": error["message"],
        "param": details.get("field"),
        "line": details.get("line"),
    }


def _time(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment is not None else None
