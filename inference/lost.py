"""What is told and kept of requests whose worker was lost: the web process that waited speaks in its place."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from common.errors import ApiError
from common.events import InferenceFailed
from inference.calls import Call
from inference.messages import Job
from inference.models import RequestRecord


@dataclass(frozen=True, slots=True)
class Lost:
    """A request that ended with its worker, as it is told of, and as it is kept."""

    event: InferenceFailed
    record: RequestRecord
    trace: Mapping[str, str]


def lost(job: Job, call: Call, error: ApiError, *, worker: str, backend: str) -> Lost:
    """Of a call that waits. `worker`: `host/device`, empty if it is not known any more.

    How much was generated is not known here; a request that was accepted was with its worker until then, as far as this
    process has seen.
    """
    item = [request.request_id for request in job.requests].index(call.request_id)
    age = asyncio.get_running_loop().time() - call.submitted_at
    with_worker = call.accept_time if call.accepted_at is not None else age
    record = RequestRecord(
        request_id=job.request_id,
        item=item,
        user_id=job.user_id,
        key_id=job.key_id,
        model=job.model_id,
        kind=job.kind,
        state=RequestRecord.State.FAILED,
        error_code=error.code,
        backend=call.backend or backend,
        worker=worker,
        prompt_tokens=call.prompt_tokens,
        auth_time=job.auth_time,
        door_time=job.door_time,
        taken_time=with_worker,
        prepared_time=call.accept_time,
        accept_time=call.accept_time,
        total_time=age,
        created_at=datetime.fromtimestamp(job.submitted_at, UTC),
    )
    event = InferenceFailed(
        request_id=job.request_id,
        item=item,
        model=job.model_id,
        kind=job.kind,
        user_id=job.user_id,
        code=error.code,
        error=error.message,
    )
    return Lost(event, record, job.trace)
