"""One connection to Redis that all coroutines of an event loop share; for what every request does.

Commands go out at once, one after the other, and the answers come in the same order (pipelining over requests). A pool
of connections with a client object around them, redis-py's way, costs several times as much processor time per command,
above all in locks, timers and records; the connection itself (address, TLS, authentication, protocol) is redis-py's.
"""

import asyncio
import hashlib
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis.asyncio
from redis.exceptions import NoScriptError, RedisError, ResponseError

Argument = str | bytes | int | float


class RedisLine:
    """Connects at the first command, and again at the next one after the connection was lost.

    After a Redis that did not answer in time, commands fail at once for `rest_seconds`: what takes several steps then
    waits for a hanging Redis once, not at each step.
    """

    def __init__(self, url: str, *, connect_seconds: float, answer_seconds: float, rest_seconds: float = 0.0) -> None:
        self._pool: Any = redis.asyncio.ConnectionPool.from_url(url, socket_connect_timeout=connect_seconds)
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
        self._rest_seconds = rest_seconds
        self._rests_until = float("-inf")
        self._opening = asyncio.Lock()
        self._live: _Connection | None = None

    async def execute(self, *arguments: Argument, seconds: float = 0.0) -> Any:
        """Send one command and return its answer: bytes, numbers, lists. `seconds`: how much longer than usual to wait.

        Raises redis.RedisError: ResponseError for what Redis refuses, ConnectionError or TimeoutError when it can't be
        reached; a command that was on its way then may have been carried out or not.
        """
        live = self._live
        if live is None or live.is_lost:
            live = await self._open()
        answer = live.send(arguments)
        patience = self._answer_seconds + seconds
        try:
            async with asyncio.timeout(patience):
                return await answer
        except TimeoutError:
            error = self._late(patience)
            live.lose(error)
            raise error from None

    async def close(self) -> None:
        """Close the connection; commands without an answer fail."""
        live, self._live = self._live, None
        if live is not None:
            await live.close()

    async def _open(self) -> "_Connection":
        async with self._opening:
            if self._live is None or self._live.is_lost:
                if time.monotonic() < self._rests_until:
                    raise redis.ConnectionError("Redis did not answer a moment ago.")
                await self.close()
                self._live = _Connection(await self._connect())
            return self._live

    async def _connect(self) -> Any:
        """Connect and agree on the protocol, which a Redis that hangs would never end."""
        connection = self._pool.make_connection()
        try:
            async with asyncio.timeout(self._connect_seconds):
                await connection.connect()
        except TimeoutError:
            await connection.disconnect(nowait=True)
            raise self._late(self._connect_seconds) from None
        except redis.TimeoutError:
            self._late(self._connect_seconds)
            raise
        return connection

    def _late(self, patience: float) -> redis.TimeoutError:
        self._rests_until = time.monotonic() + self._rest_seconds
        return redis.TimeoutError(f"Redis did not answer within {patience:g} s.")


class _Connection:
    """A connection in use: the commands without answers, and the task that reads the answers."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        # redis-py's own way to send is a coroutine that, when cancelled, closes the connection for everybody.
        self._writer: asyncio.StreamWriter = connection._writer
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self.is_lost = False
        self._reader = asyncio.create_task(self._read(), name="redis answers")

    def send(self, arguments: Sequence[Argument]) -> "asyncio.Future[Any]":
        """Send a command; its answer, or a redis.RedisError, comes into the future."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        packed = self._connection.pack_command(*arguments)
        self._waiting.append(answer)
        self._writer.writelines(packed)
        return answer

    def lose(self, error: RedisError) -> None:
        """Fail every command that has no answer yet; nothing more can be sent."""
        self.is_lost = True
        self._reader.cancel()
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(redis.ConnectionError(f"The connection to Redis was lost: {error}"))

    async def close(self) -> None:
        self.lose(redis.ConnectionError("it was closed"))
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._connection.disconnect(nowait=True)

    async def _read(self) -> None:
        while True:
            refused: ResponseError | None = None
            try:
                reply = await self._connection.read_response(timeout=math.inf, disconnect_on_error=False)
            except ResponseError as error:
                refused = error
            except (RedisError, OSError) as error:
                self.lose(redis.ConnectionError(str(error)))
                return
            if not self._waiting:
                self.lose(redis.ConnectionError("an answer came that nobody had asked for"))
                return
            answer = self._waiting.popleft()
            if answer.done():  # whoever asked has gone meanwhile
                continue
            if refused is not None:
                answer.set_exception(refused)
            else:
                answer.set_result(reply)


class Script:
    """A Lua script that Redis runs as one step."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._id = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, line: RedisLine, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Any:
        """Run it and return its answer. Raises redis.RedisError."""
        try:
            return await line.execute("EVALSHA", self._id, len(keys), *keys, *arguments)
        except NoScriptError:
            return await line.execute("EVAL", self._source, len(keys), *keys, *arguments)
