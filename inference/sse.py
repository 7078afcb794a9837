"""Calls as Server-Sent Events."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import msgspec
from django.conf import settings

from common.direct_body import DirectBody
from common.envelope import failure, timestamp
from engine.messages import Delta, Failed, Finished
from inference.calls import Call, Event, error_of
from inference.gateway import Gateway
from inference.results import figures

KEEP_ALIVE = b": keep-alive\n\n"
_encoder = msgspec.json.Encoder()
# Not ends of lines in this format, yet many clients' line readers (Python's splitlines, httpx) split there.
_LINE_ENDS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


class Lines(Protocol):
    """What a door writes for the events of its calls, which are counted from 0."""

    def opening(self) -> bytes:
        """What goes before everything else; maybe nothing."""

    def line(self, index: int, event: Event) -> bytes: ...

    def closing(self) -> bytes:
        """What goes after the good end of all calls; maybe nothing."""


class EventStream:
    """Yields the events of calls; each chunk holds everything that has come in since the last one.

    With `body`, a delta of a lone call goes straight into the response's body while the client keeps up, and only the
    rest is yielded. The first call that fails ends the stream. The calls are closed with the stream, also when the
    client leaves before the first chunk is asked for.
    """

    def __init__(
        self, gateway: Gateway, calls: Sequence[Call], lines: Lines, *, body: DirectBody | None = None
    ) -> None:
        self._gateway = gateway
        self._calls = tuple(calls)
        self._lines = lines
        self._body = body
        self._written = False
        self._loop = asyncio.get_running_loop()
        self._waits: dict[int, asyncio.Task[list[Event]]] = {}
        self._chunks = self._generate()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    def close(self) -> None:
        """For the response's end, which Django may tell from a thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._gateway.close, *self._calls)

    async def _generate(self) -> AsyncIterator[bytes]:
        try:
            opening = self._lines.opening()
            if opening:
                yield opening
            if len(self._calls) == 1 and self._body is not None:
                self._calls[0].shortcut = self._write
            left = set(range(len(self._calls)))
            while left:
                self._written = False
                events = await self._drained(left)
                if events:
                    lines = b"".join([self._lines.line(index, event) for index, event in events])
                    if lines:  # a door may wait for more before it says anything
                        yield lines
                    if any(isinstance(event, Failed) for _, event in events):
                        return
                    left -= {index for index, event in events if not isinstance(event, Delta)}
                elif not self._written:
                    yield KEEP_ALIVE
            closing = self._lines.closing()
            if closing:
                yield closing
        finally:
            for wait in self._waits.values():
                wait.cancel()
            self._calls[0].shortcut = None
            self._gateway.close(*self._calls)

    async def _drained(self, left: set[int]) -> list[tuple[int, Event]]:
        """What has come in for the calls that have not ended, after waiting for something; empty if nothing came."""
        seconds = settings.SSE_KEEP_ALIVE_SECONDS
        if len(self._calls) == 1:
            return [(0, event) for event in await self._calls[0].drain(seconds)]
        for index in left - self._waits.keys():
            self._waits[index] = asyncio.create_task(self._calls[index].drain())
        done, _ = await asyncio.wait(self._waits.values(), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        ready = [index for index, wait in self._waits.items() if wait in done]
        return [(index, event) for index in ready for event in self._waits.pop(index).result()]

    def _write(self, event: Delta) -> bool:
        """The call offers a delta only while `_generate` waits: all that came before is in the body already."""
        body = self._body
        if body is None or not body.is_open:
            return False
        if line := self._lines.line(0, event):
            body.write(line)
        self._written = True
        return True


class InferLines:
    """The lines of section 3.3."""

    def __init__(self, call: Call, *, request_id: str, started_at: float) -> None:
        self._call = call
        self._request_id = request_id
        self._started_at = started_at
        self._position = 0

    def opening(self) -> bytes:
        return b""

    def closing(self) -> bytes:
        return b""

    def line(self, index: int, event: Event) -> bytes:
        if isinstance(event, Delta):
            line = b'data: {"token": %b, "position": %d, "is_complete": false}\n\n' % (
                encoded(event.text),
                self._position,
            )
            self._position += 1
            return line
        if isinstance(event, Finished):
            return b"data: %b\n\n" % encoded(self._last(event))
        return error_event(event, self._request_id)

    def _last(self, end: Finished) -> dict[str, Any]:
        return {
            "token": end.delta,
            "position": self._position,
            "is_complete": True,
            "final_text": end.text,
            **figures(self._call, end),
            "model_used": self._call.model_id,
            "backend": self._call.backend,
            "request_id": self._request_id,
            "timestamp": timestamp(),
            "processing_time": round(time.perf_counter() - self._started_at, 4),
        }


def encoded(value: Any) -> bytes:
    """JSON for one line of a stream."""
    data = _encoder.encode(value)
    if not data.isascii():
        for raw, escaped in _LINE_ENDS:
            data = data.replace(raw, escaped)
    return data


def error_event(event: Failed, request_id: str) -> bytes:
    """The section 8.1 body, after the answer's status has gone out."""
    return b"event: error\ndata: %b\n\n" % encoded(failure(error_of(event), request_id))
