"""The names of what inference keeps in Redis."""

from common.redis import key


def reply_stream(web_id: str) -> str:
    """The stream that one web process reads."""
    return key("reply", web_id)


def control_channel(queue: str) -> str:
    """The channel on which the worker of a queue hears of cancelled requests."""
    return key("control", queue)


def cancelled(request_id: str) -> str:
    """Exists once a request is cancelled, for a worker that has not begun it yet. Holds the reason."""
    return key("cancelled", request_id)


def claim(job_id: str) -> str:
    """Holds the id of the worker that has begun a job, so that a second delivery does not run it again."""
    return key("claim", job_id)


def model_queue(model_id: str) -> str:
    """The sorted set of a model's waiting and running requests; their deadlines are the scores."""
    return key("queue", model_id)


def first_in_queue(model_id: str) -> str:
    """The sorted set of those of a model's requests that go first."""
    return key("queue", model_id, "first")


def standard_refused(model_id: str) -> str:
    """Exists for a moment after a standard request found no place."""
    return key("queue", model_id, "refused")
