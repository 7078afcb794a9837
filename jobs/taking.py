"""Makes jobs of the requests that inference defers."""

from typing import Any

from asgiref.sync import sync_to_async

from inference.deferral import Deferred
from jobs.presentation import job_body
from jobs.services import submit


async def take(deferred: Deferred) -> dict[str, Any]:
    """Keep the request and return its job, as it is shown. Raises ApiError."""
    job = await sync_to_async(submit)(
        caller=deferred.caller,
        kind=deferred.kind,
        model=deferred.model,
        defaults=deferred.defaults,
        items=deferred.items,
        webhook_url=deferred.webhook_url,
    )
    return job_body(job)
