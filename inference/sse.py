"""A call as Server-Sent Events."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

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


class EventStream:
    """Yields the events of a call; each chunk holds everything that has come in since the last one.

    With `body`, a delta goes straight into the response's body while the client keeps up, and only the rest is yielded.
    The call is closed with the stream, also when the client leaves before the first chunk is asked for.
    """

    def __init__(
        self, gateway: Gateway, call: Call, *, request_id: str, started_at: float, body: DirectBody | None = None
    ) -> None:
        self._gateway = gateway
        self._call = call
        self._request_id = request_id
        self._started_at = started_at
        self._position = 0
        self._body = body
        self._written = False
        self._loop = asyncio.get_running_loop()
        self._chunks = self._generate()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    def close(self) -> None:
        """For the response's end, which Django may tell from a thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._gateway.close, self._call)

    async def _generate(self) -> AsyncIterator[bytes]:
        try:
            self._call.shortcut = self._write if self._body is not None else None
            ended = False
            while not ended:
                self._written = False
                events = await self._call.drain(settings.SSE_KEEP_ALIVE_SECONDS)
                if events:
                    yield b"".join(map(self._line, events))
                    ended = not isinstance(events[-1], Delta)
                elif not self._written:
                    yield KEEP_ALIVE
        finally:
            self._call.shortcut = None
            self._gateway.close(self._call)

    def _write(self, event: Delta) -> bool:
        """The call offers a delta only while `_generate` waits: all that came before is in the body already."""
        body = self._body
        if body is None or not body.is_open:
            return False
        body.write(self._line(event))
        self._written = True
        return True

    def _line(self, event: Event) -> bytes:
        if isinstance(event, Delta):
            line = b'data: {"token": %b, "position": %d, "is_complete": false}\n\n' % (
                _encode(event.text),
                self._position,
            )
            self._position += 1
            return line
        if isinstance(event, Finished):
            return b"data: %b\n\n" % _encode(self._last(event))
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


def _encode(value: Any) -> bytes:
    data = _encoder.encode(value)
    if not data.isascii():
        for raw, escaped in _LINE_ENDS:
            data = data.replace(raw, escaped)
    return data


def error_event(event: Failed, request_id: str) -> bytes:
    """The section 8.1 body, after the answer's status has gone out."""
    return b"event: error\ndata: %b\n\n" % _encode(failure(error_of(event), request_id))
