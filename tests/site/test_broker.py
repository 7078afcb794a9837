"""The order in which a worker takes what waits in its queue."""

from collections.abc import Iterator

import kombu
import pytest
from django.conf import settings

from engine.runtime import scheduler
from llama_gpu_site import broker

PREMIUM, STANDARD, BACKGROUND = 0, 3, 9


@pytest.fixture
def connection(clean_redis: str) -> Iterator[kombu.Connection]:
    broker.install()
    with kombu.Connection(clean_redis, transport_options=settings.CELERY_BROKER_TRANSPORT_OPTIONS) as connection:
        yield connection


def publish(connection: kombu.Connection, priority: int, count: int) -> None:
    with connection.Producer() as producer:
        for number in range(count):
            producer.publish([priority, number], routing_key="device.test", priority=priority, serializer="json")


def take(connection: kombu.Connection, count: int) -> list[tuple[int, int]]:
    taken: list[tuple[int, int]] = []

    def keep(body: list[int], message: kombu.Message) -> None:
        taken.append((body[0], body[1]))
        message.ack()

    with connection.channel() as channel:
        queue = kombu.Queue("device.test", routing_key="device.test")
        with kombu.Consumer(channel, [queue], callbacks=[keep], accept=["json"]):
            while len(taken) < count:
                connection.drain_events(timeout=5)
    return taken


@pytest.fixture
def queue(connection: kombu.Connection) -> None:
    kombu.Queue("device.test", routing_key="device.test")(connection.default_channel).declare()


@pytest.mark.usefixtures("queue")
def test_of_five_messages_four_are_premium_and_one_is_standard(connection: kombu.Connection) -> None:
    publish(connection, STANDARD, 40)
    publish(connection, PREMIUM, 200)
    taken = take(connection, 100)
    for begin in range(0, 100, 5):
        assert [priority for priority, _ in taken[begin : begin + 5]].count(STANDARD) == 1
    for wanted in (PREMIUM, STANDARD):  # first come, first served within a priority
        numbers = [number for priority, number in taken if priority == wanted]
        assert numbers == list(range(len(numbers)))


@pytest.mark.usefixtures("queue")
def test_a_turn_that_nobody_wants_goes_to_the_others(connection: kombu.Connection) -> None:
    publish(connection, PREMIUM, 12)
    assert [priority for priority, _ in take(connection, 12)] == [PREMIUM] * 12
    publish(connection, STANDARD, 12)
    assert [priority for priority, _ in take(connection, 12)] == [STANDARD] * 12


@pytest.mark.usefixtures("queue")
def test_the_background_is_taken_last_but_for_every_25th_message(connection: kombu.Connection) -> None:
    publish(connection, BACKGROUND, 10)
    publish(connection, STANDARD, 60)
    publish(connection, PREMIUM, 200)
    taken = [priority for priority, _ in take(connection, 100)]
    assert [taken[begin : begin + 25].count(BACKGROUND) for begin in range(0, 100, 25)] == [1] * 4
    assert taken.count(STANDARD) == 20  # its fifth all the same


def test_broker_and_engine_give_the_same_share() -> None:
    assert broker.LOWER_PRIORITY_TURN == scheduler.LOWER_PRIORITY_TURN
