"""What becomes of an item: one line of JSON, in the form of the door that its job came through."""

from collections.abc import Iterator
from typing import Any

import msgspec

from common.errors import ApiError
from common.openai_errors import openai_failure
from jobs.models import Job, JobItem

_encode = msgspec.json.Encoder(enc_hook=str).encode
_ROWS = 500
_NEVER_RUN = {
    Job.State.CANCELLED: ("JOB_CANCELLED", "batch_cancelled", "The job was cancelled before this item had ended."),
    Job.State.EXPIRED: ("JOB_EXPIRED", "batch_expired", "The job's time was over before this item had ended."),
    Job.State.FAILED: ("JOB_FAILED", "batch_failed", "The job was given up before this item had ended."),
}


def request_id_of(job_id: str, index: int) -> str:
    """The id under which an item's request is recorded, logged and told of."""
    return f"{job_id}-{index}"


def completed(*, is_openai: bool, job_id: str, index: int, custom_id: str, answer: dict[str, Any]) -> str:
    if not is_openai:
        return _line({"id": custom_id, **answer})
    return _openai_line(job_id, index, custom_id, response=_response(job_id, index, 200, answer))


def failed(*, is_openai: bool, job_id: str, index: int, custom_id: str, error: ApiError) -> str:
    """The error of an item that was sent."""
    if not is_openai:
        return _line({"id": custom_id, "error": error_body(error)})
    return _openai_line(
        job_id, index, custom_id, response=_response(job_id, index, error.status, openai_failure(error))
    )


def unreadable(*, is_openai: bool, job_id: str, index: int, custom_id: str, line: int, error: ApiError) -> str:
    """The error of a line that could not become a request; `line` is its number in the file."""
    if not is_openai:
        body = error_body(error)
        return _line({"id": custom_id, "error": {**body, "details": {**body["details"], "line": line}}})
    described = {"code": "invalid_request", "message": f"Line {line}: {error.message}"}
    return _openai_line(job_id, index, custom_id, error=described)


def line_of(job: Job, item: JobItem) -> bytes:
    """The line of an ended item, with its end."""
    if item.result:
        return item.result.encode() + b"\n"
    code, openai_code, message = _NEVER_RUN.get(Job.State(job.state), _NEVER_RUN[Job.State.CANCELLED])
    if job.is_openai_batch:
        described = {"code": openai_code, "message": message}
        return _openai_line(job.id, item.index, item.custom_id, error=described).encode() + b"\n"
    error = {"code": code, "message": message, "details": {}}
    return _line({"id": item.custom_id, "error": error}).encode() + b"\n"


def lines(job: Job, states: tuple[JobItem.State, ...], *, after: int = -1) -> Iterator[list[bytes]]:
    """The lines of the items in these states, in order, some hundred at a time."""
    while True:
        items = list(JobItem.objects.filter(job=job, index__gt=after, state__in=states).order_by("index")[:_ROWS])
        if not items:
            return
        after = items[-1].index
        yield [line_of(job, item) for item in items]


def error_body(error: ApiError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "details": error.details}


def _response(job_id: str, index: int, status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": request_id_of(job_id, index), "body": body}


def _openai_line(
    job_id: str,
    index: int,
    custom_id: str,
    *,
    response: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
) -> str:
    item_id = f"batch_req_{job_id.removeprefix('batch_')}-{index}"
    return _line({"id": item_id, "custom_id": custom_id or None, "response": response, "error": error})


def _line(content: dict[str, Any]) -> str:
    return _encode(content).decode()
