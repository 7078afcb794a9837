"""The message that a script puts into the broker is the one that Celery would have published."""

import json
from typing import Any

import pytest
from celery import current_app

from common.redis import redis_line, sync_redis
from engine.messages import Generate
from engine.params import SamplingParams
from inference.messages import Job, decode_job
from inference.queue_limit import enter
from inference.task_message import TASK_NAME, broker_list, task_message
from inference.tasks import generate

QUEUE = "device.here.cpu"
JOB = Job("j~1", "j", "infer", "m", "web", (Generate("j~1", SamplingParams(), text="ein Wort – ✓"),), 1.0, 2.0)
# Who published, whether it was republished, and ids that Celery makes up: its worker does without them.
NOT_NEEDED = {"lang", "origin", "shadow", "group_index", "replaced_task_nesting", "stamped_headers", "stamps"}


@pytest.fixture
def published_by_celery(clean_redis: str) -> dict[str, Any]:
    """Publish the same task the usual way, and take it from the broker's list."""
    with current_app.connection_for_write(clean_redis) as connection:
        current_app.send_task(
            TASK_NAME,
            (JOB.encode(),),
            task_id=JOB.job_id,
            queue=QUEUE,
            priority=3,
            ignore_result=True,
            argsrepr="",
            kwargsrepr="",
            connection=connection,
        )
    raw = sync_redis().rpop(broker_list(QUEUE, 3))
    assert isinstance(raw, bytes), "the list has another name"
    message: dict[str, Any] = json.loads(raw)
    return message


def test_it_has_the_headers_of_celerys_own(published_by_celery: dict[str, Any]) -> None:
    ours, theirs = json.loads(task_message(JOB, queue=QUEUE, priority=3)), published_by_celery

    assert ours.keys() == theirs.keys()
    assert theirs["headers"].keys() - ours["headers"].keys() <= NOT_NEEDED
    assert {**theirs["headers"], **ours["headers"]} == theirs["headers"]


def test_its_body_holds_the_same_arguments(published_by_celery: dict[str, Any]) -> None:
    import base64

    ours = json.loads(task_message(JOB, queue=QUEUE, priority=3))
    theirs = json.loads(base64.b64decode(published_by_celery["body"]))

    assert json.loads(ours["body"]) == theirs
    assert decode_job(json.loads(ours["body"])[0][0]) == JOB


def test_its_properties_are_those_of_the_broker(published_by_celery: dict[str, Any]) -> None:
    ours, theirs = json.loads(task_message(JOB, queue=QUEUE, priority=3)), published_by_celery

    own = {"delivery_tag", "reply_to"}
    for name in ours["properties"].keys() - own:
        assert ours["properties"][name] == theirs["properties"][name]


@pytest.mark.parametrize(("priority", "name"), [(0, QUEUE), (3, f"{QUEUE}:3"), (5, f"{QUEUE}:3"), (9, f"{QUEUE}:9")])
def test_each_priority_has_the_brokers_list(priority: int, name: str, settings: Any) -> None:
    assert broker_list(QUEUE, priority) == settings.REDIS_PREFIX + name


async def test_celerys_own_consumer_takes_it(clean_redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await enter(
        redis_line(),
        model_id="m",
        request_ids=["j~1"],
        goes_first=True,
        seconds=60,
        broker_list=broker_list(QUEUE, 0),
        message=task_message(JOB, queue=QUEUE, priority=0),
    )

    with current_app.connection_for_read(clean_redis) as connection:
        queue = connection.SimpleQueue(QUEUE)
        message = queue.get(timeout=5)
        message.ack()
        queue.close()

    assert message.headers["task"] == generate.name
    assert decode_job(message.payload[0][0]) == JOB
