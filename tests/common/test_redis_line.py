"""The shared connection, on a real Redis."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis

from common.redis_line import RedisLine, Script


@pytest.fixture
async def line(clean_redis: str) -> AsyncIterator[RedisLine]:
    line = RedisLine(clean_redis, connect_seconds=2, answer_seconds=2)
    yield line
    await line.close()


async def test_everybody_gets_their_own_answer(line: RedisLine) -> None:
    answers = await asyncio.gather(*(line.execute("ECHO", f"value {number}") for number in range(500)))

    assert answers == [f"value {number}".encode() for number in range(500)]


async def test_all_share_one_connection(line: RedisLine) -> None:
    ids = await asyncio.gather(*(line.execute("CLIENT", "ID") for _ in range(50)))

    assert len(set(ids)) == 1


async def test_a_refused_command_fails_alone(line: RedisLine) -> None:
    await line.execute("SET", "text", "words")

    good, bad, also_good = await asyncio.gather(
        line.execute("GET", "text"), line.execute("INCR", "text"), line.execute("GET", "text"), return_exceptions=True
    )

    assert (good, also_good) == (b"words", b"words")
    assert isinstance(bad, redis.ResponseError)


async def test_who_leaves_does_not_take_anothers_answer_along(line: RedisLine) -> None:
    leaving = asyncio.create_task(line.execute("BLPOP", "nothing", 0.2))
    staying = asyncio.create_task(line.execute("ECHO", "mine"))
    await asyncio.sleep(0.05)
    leaving.cancel()

    assert await staying == b"mine"
    assert await line.execute("ECHO", "next") == b"next"


async def test_a_lost_connection_fails_what_waits_and_is_made_anew(line: RedisLine, clean_redis: str) -> None:
    number = await line.execute("CLIENT", "ID")
    waiting = asyncio.create_task(line.execute("BLPOP", "nothing", 30, seconds=30))
    await asyncio.sleep(0.05)

    with redis.Redis.from_url(clean_redis) as other:
        other.execute_command("CLIENT", "KILL", "ID", number)

    with pytest.raises(redis.ConnectionError):
        await waiting
    assert await line.execute("CLIENT", "ID") != number


async def test_no_answer_in_time_is_an_error_and_the_next_command_works(clean_redis: str) -> None:
    line = RedisLine(clean_redis, connect_seconds=2, answer_seconds=0.1)
    with pytest.raises(redis.TimeoutError):
        await line.execute("BLPOP", "nothing", 5)

    assert await line.execute("ECHO", "again") == b"again"
    await line.close()


async def test_a_command_may_be_given_more_time(clean_redis: str) -> None:
    line = RedisLine(clean_redis, connect_seconds=2, answer_seconds=0.1)

    assert await line.execute("BLPOP", "nothing", 0.3, seconds=5) is None
    await line.close()


async def test_nobody_there_is_a_connection_error() -> None:
    line = RedisLine("redis://127.0.0.1:1/0", connect_seconds=1, answer_seconds=1)

    with pytest.raises(redis.ConnectionError):
        await line.execute("PING")


async def test_what_is_under_way_when_it_is_closed_fails(line: RedisLine) -> None:
    waiting = asyncio.create_task(line.execute("BLPOP", "nothing", 30, seconds=30))
    await asyncio.sleep(0.05)
    await line.close()

    with pytest.raises(redis.ConnectionError):
        await waiting


async def test_a_script_runs_also_where_it_is_not_known_yet(line: RedisLine) -> None:
    script = Script("return {KEYS[1], ARGV[1], tonumber(ARGV[2]) + 1}")
    await line.execute("SCRIPT", "FLUSH")

    assert await script.run(line, ["k"], ["a", 41]) == [b"k", b"a", 42]
    assert await script.run(line, ["k"], ["b", 1]) == [b"k", b"b", 2]


async def test_after_no_answer_everybody_fails_at_once_for_a_moment(clean_redis: str) -> None:
    line = RedisLine(clean_redis, connect_seconds=2, answer_seconds=0.1, rest_seconds=0.5)
    with pytest.raises(redis.TimeoutError):
        await line.execute("BLPOP", "nothing", 1)

    with pytest.raises(redis.ConnectionError, match="a moment ago"):
        await line.execute("ECHO", "too early")
    await asyncio.sleep(0.6)
    assert await line.execute("ECHO", "again") == b"again"
    await line.close()


async def test_a_server_that_takes_connections_and_says_nothing_is_a_timeout() -> None:
    left = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the other side closes
        writer.close()
        left.set()

    silent = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    line = RedisLine(f"redis://127.0.0.1:{port}/0", connect_seconds=0.2, answer_seconds=1, rest_seconds=5)

    async with asyncio.timeout(2):  # a hundred callers wait for it once, not one after the other
        outcomes = await asyncio.gather(*(line.execute("PING") for _ in range(100)), return_exceptions=True)

    assert isinstance(outcomes[0], redis.TimeoutError)
    assert all(isinstance(outcome, redis.RedisError) for outcome in outcomes)
    async with asyncio.timeout(2):
        await left.wait()
    silent.close()
