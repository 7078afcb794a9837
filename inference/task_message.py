"""The message that Celery would publish for our task, so that a script in Redis can put it into the queue.

Celery's own way to publish blocks, and so needs a thread, and costs several times as much. The format is Celery's task
message protocol, version 2 (https://docs.celeryq.dev/en/stable/internals/protocol.html), in the envelope of kombu's
transports without a broker of their own; a test holds it to what the installed versions would send.
"""

from bisect import bisect_right
from typing import Any

import msgspec
from django.conf import settings

from common.redis import key
from inference.messages import Job

TASK_NAME = "inference.tasks.generate"
# On Celery's scale, where 0 is the highest.
GOES_FIRST, STANDARD, BACKGROUND = 0, 3, 9
_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_encode = msgspec.json.Encoder().encode


def task_message(job: Job, *, queue: str, priority: int) -> bytes:
    """The Celery task that runs a job. Its arguments stand in no header, which a worker might log."""
    message: dict[str, Any] = {
        "body": _encode([[job.encode()], {}, _EMBED]).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": TASK_NAME,
            "id": job.job_id,
            "root_id": job.job_id,
            "parent_id": None,
            "group": None,
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": "",
            "kwargsrepr": "",
            "ignore_result": True,
        },
        "properties": {
            "correlation_id": job.job_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_tag": job.job_id,
            "priority": priority,
        },
    }
    return _encode(message)


def broker_list(queue: str, priority: int) -> str:
    """The Redis list in which kombu's transport keeps a queue's messages of a priority; 0 is the highest."""
    options: dict[str, Any] = settings.CELERY_BROKER_TRANSPORT_OPTIONS
    steps: list[int] = options["priority_steps"]
    step = steps[bisect_right(steps, priority) - 1]
    return key(f"{queue}{options['sep']}{step}" if step else queue)
