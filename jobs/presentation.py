"""Jobs as the API shows them."""

from typing import Any

from common.envelope import timestamp
from jobs.models import Job


def job_body(job: Job) -> dict[str, Any]:
    """A job without its results."""
    total, ended = job.total, job.ended
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "name": job.name,
        "model": job.model,
        "progress": {
            "total": total,
            "completed": job.completed,
            "failed": job.failed,
            "cancelled": job.cancelled,
            "pending": total - ended,
            "fraction": round(ended / total, 4) if total and job.state != Job.State.VALIDATING else 0.0,
        },
        "usage": {"prompt_tokens": job.prompt_tokens, "tokens_generated": job.completion_tokens},
        "waits": {"for": job.waits_for, "until": _time(job.waits_until)} if job.waits_for else None,
        "error": job.error,
        "metadata": job.metadata,
        "webhook_url": job.webhook_url or None,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at),
        "ended_at": _time(job.ended_at),
        "expires_at": _time(job.expires_at),
    }


def _time(moment: Any) -> str | None:
    return timestamp(moment) if moment is not None else None
