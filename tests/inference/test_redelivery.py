"""A task that the broker delivers twice runs once."""

import time
from typing import Any

import redis
from celery import Celery
from django.conf import settings

from engine.messages import Failed, Finished, Generate, RequestEvent
from engine.params import SamplingParams
from inference.messages import Job, decode_frame
from tests.inference.conftest import EchoServer, wait_until

WEB = "a-web-process-of-the-test"


def events(client: redis.Redis) -> list[RequestEvent]:
    entries: Any = client.xrange(f"{settings.REDIS_PREFIX}reply:{WEB}")
    return [event for _, fields in entries if b"f" in fields for event in decode_frame(fields[b"f"]).events]


def test_a_second_delivery_runs_nothing(instant_server: EchoServer) -> None:
    worker = instant_server.worker()
    job = Job(
        job_id="req_twice~1",
        request_id="req_twice",
        kind="infer",
        model_id="echo",
        reply_to=WEB,
        requests=(Generate("req_twice~1", SamplingParams(max_tokens=3), text="a b", stream=False),),
        submitted_at=time.time(),
        seconds=60,
    )
    app = Celery(broker=instant_server.redis_url)
    app.conf.broker_transport_options = settings.CELERY_BROKER_TRANSPORT_OPTIONS
    with redis.Redis.from_url(instant_server.redis_url) as client, app.connection_for_write() as connection:
        client.xadd(f"{settings.REDIS_PREFIX}reply:{WEB}", {b"opened": b"1"})
        for _ in range(2):
            app.send_task(
                "inference.tasks.generate",
                (job.encode(),),
                task_id=job.job_id,
                queue=worker.queue,
                connection=connection,
            )
            wait_until(lambda: any(isinstance(event, Finished) for event in events(client)))
        wait_until(lambda: "not run again" in instant_server.log())

        ends = [event for event in events(client) if isinstance(event, Finished | Failed)]
    assert len(ends) == 1
