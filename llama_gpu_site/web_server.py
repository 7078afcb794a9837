"""The web process's server: Daphne with backpressure and bounded request bodies.

Daphne hands everything an application sends to the transport at once, however slowly the client reads, so that one
stalled stream can fill the memory. Here a `send` waits while the transport's buffer is above its high-water mark, and a
client that takes nothing at all for a while is dropped. Request bodies over their address's limit are not stored: the
application sees one byte more than it allows and answers 413 by itself.
"""

import asyncio
import fcntl
import io
import logging
import socket
import sys
import termios
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import IO, Any

import daphne.server
import twisted.web.http
from autobahn.websocket.protocol import WebSocketProtocol
from daphne.http_protocol import HTTPFactory, WebRequest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.tcp import Connection
from zope.interface import implementer

from common.direct_body import EXTENSION
from common.direct_frames import EXTENSION as FRAMES
from llama_gpu_site.handover import Handover

logger = logging.getLogger(__name__)

# A client that goes on sending after this many times the limit is not waiting for our 413.
_PATIENCE_WITH_BODIES = 16
_BACKLOG = 1024
# Twisted keeps bodies larger than about this in files; they are read in parts of this size.
LARGE_BODY_BYTES = 128 * 1024
LARGE_BODY = "llama_gpu.large_body"
_OPEN = WebSocketProtocol.STATE_OPEN
# Of a shutdown: for the hook, for responses to come to their end, for cancelled ones to clean up.
SHUTDOWN_SECONDS = 3.0
ENDING_SECONDS = 1.0
CANCELLING_SECONDS = 1.0


@implementer(IPushProducer)
class Flow:
    """Whether a connection takes more data, as its transport tells it."""

    def __init__(self) -> None:
        self._room = asyncio.Event()
        self._room.set()

    def pauseProducing(self) -> None:  # noqa: N802 — Twisted's name
        self._room.clear()

    def resumeProducing(self) -> None:  # noqa: N802 — Twisted's name
        self._room.set()

    def stopProducing(self) -> None:  # noqa: N802 — Twisted's name
        self._room.set()

    @property
    def is_open(self) -> bool:
        return self._room.is_set()

    async def wait(self, seconds: float) -> bool:
        """Whether there was room within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._room.wait()
        except TimeoutError:
            return False
        return True


class BoundedRequest(WebRequest):  # type: ignore[misc]  # daphne has no types
    """A request that keeps no more of its body than the application takes."""

    body_limit: Callable[[str], int]
    handover: Handover | None = None
    _received = 0

    def process(self) -> None:
        """Answer it, or hand it to the process whose session it belongs to."""
        handover = self.handover
        owner = handover.owner_of(self.uri) if handover is not None else None
        if handover is not None and owner is not None:
            handover.hand_over(self, owner, refused=super().process)
        else:
            super().process()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 — Twisted's name
        limit = self._limit
        room = limit + 1 - self._received
        self._received += len(data)
        if room > 0:
            super().handleContentChunk(data[:room])
        elif self._received > _PATIENCE_WITH_BODIES * limit:
            self.channel.loseConnection()

    @property
    def _limit(self) -> int:
        """Of this request's body. Twisted tells a request its address only after the body."""
        path = bytes(getattr(self.channel, "_path", b"") or b"").partition(b"?")[0]
        return type(self).body_limit(path.decode("ascii", "replace"))

    def finish(self) -> None:
        if self.producer is not None:
            self.unregisterProducer()
        super().finish()


class LargeBody(io.RawIOBase):
    """The file that holds a request's body, in its place: Daphne, which would read it into memory whole, finds nothing
    in it; the application reads it a bit at a time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        return b""

    def close(self) -> None:
        self._file.close()
        super().close()

    def before(self, receive: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        """`receive`, but with the body's messages where Daphne's own, empty one is."""
        is_read = False

        async def receive_body() -> Any:
            nonlocal is_read
            if is_read or self.closed:
                return await receive()
            chunk = self._file.read(LARGE_BODY_BYTES)
            if len(chunk) < LARGE_BODY_BYTES:
                is_read = True
                await receive()  # that empty one
            else:
                await asyncio.sleep(0)  # others have their turn
            return {"type": "http.request", "body": chunk, "more_body": not is_read}

        return receive_body


class ResponseBody:
    """A response's body (common.direct_body) on Daphne's request."""

    __slots__ = ("_connection", "_protocol")

    def __init__(self, protocol: Any, connection: Mapping[str, Any]) -> None:
        self._protocol = protocol
        self._connection = connection

    @property
    def is_open(self) -> bool:
        flow: Flow | None = self._connection.get("flow")  # there from the first message of the response on
        return flow is not None and flow.is_open and "disconnected" not in self._connection and self._is_unfinished

    def write(self, data: bytes) -> None:
        """Past Twisted's buffer if that is empty: most parts are small and the socket takes them at once."""
        protocol: Any = self._protocol
        transport = protocol.channel.transport
        if protocol.chunked and _takes_directly(transport):
            _send(transport, b"%x\r\n%b\r\n" % (len(data), data))
        else:
            protocol.write(data)

    @property
    def _is_unfinished(self) -> bool:
        return not self._protocol.finished and self._protocol.channel is not None


class FrameWriter:
    """A websocket's outgoing side (common.direct_frames) on Daphne's protocol."""

    __slots__ = ("_connection", "_protocol")

    def __init__(self, protocol: Any, connection: Mapping[str, Any]) -> None:
        self._protocol = protocol
        self._connection = connection

    @property
    def is_open(self) -> bool:
        flow: Flow | None = self._connection.get("flow")
        is_connected = "disconnected" not in self._connection and self._protocol.state == _OPEN
        return flow is not None and flow.is_open and is_connected

    def write(self, frame: bytes) -> None:
        _send(self._protocol.transport, frame)

    def abort(self) -> None:
        self._protocol.transport.abortConnection()


class WebServer(daphne.server.Server):  # type: ignore[misc]  # daphne has no types
    """A Daphne server on one TCP socket, given or made."""

    def __init__(
        self,
        application: Any,
        *,
        address: tuple[str, int] | None = None,
        listening_socket: socket.socket | None = None,
        slow_reader_seconds: float,
        body_limit: Callable[[str], int],
        on_shutdown: Callable[[], Awaitable[None]] | None = None,
        handover: Handover | None = None,
        **options: Any,
    ) -> None:
        """`on_shutdown` is awaited before the end, while responses can still be written. `handover`: to the other web
        processes, of what belongs to them."""
        self.failure: str | None = None
        self._on_shutdown = on_shutdown
        self._handover = handover
        self._port: Any = None
        self._socket = listening_socket
        self._slow_reader_seconds = slow_reader_seconds
        self._body_limit = body_limit
        endpoints = []
        if address is not None:
            host = address[0].replace(":", r"\:")
            endpoints = [f"tcp:port={address[1]}:interface={host}:backlog={_BACKLOG}"]
        application = self._with_large_bodies(application)
        super().__init__(application, endpoints=endpoints or ["adopted"], server_name="", **options)
        self.endpoints = endpoints
        self.ready_callable = self._adopt

    def run(self) -> None:
        # The base class makes its factory by this name; there is no other way to give it ours.
        daphne.server.HTTPFactory = self._make_http_factory
        # Twisted would parse each POST's type, at a tenth of a small request's cost, and forms whole and in memory.
        # Django does both.
        if hasattr(twisted.web.http, "_parseContentType"):
            twisted.web.http._parseContentType = lambda line: b""
        # Those that Twisted doesn't know would be "Unknown Status": 422 and 429 among them.
        for status in HTTPStatus:
            twisted.web.http.RESPONSES.setdefault(status.value, status.phrase.encode("ascii"))
        super().run()

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        if scope["type"] == "http":
            if protocol._received > LARGE_BODY_BYTES:
                scope[LARGE_BODY] = protocol.content = LargeBody(protocol.content)
            scope.setdefault("extensions", {})[EXTENSION] = ResponseBody(protocol, self.connections[protocol])
        else:
            scope.setdefault("extensions", {})[FRAMES] = FrameWriter(protocol, self.connections[protocol])
        return super().create_application(protocol, scope)

    @staticmethod
    def _with_large_bodies(application: Any) -> Any:
        """Have the application read large bodies bit by bit."""

        async def serve(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Any) -> None:
            body: LargeBody | None = scope.pop(LARGE_BODY, None)
            await application(scope, receive if body is None else body.before(receive), send)

        return serve

    async def handle_reply(self, protocol: Any, message: Mapping[str, Any]) -> None:
        """Hand on what the application sends, and wait while the client does not keep up."""
        connection = self.connections.get(protocol)
        await super().handle_reply(protocol, message)
        if connection is None or "disconnected" in connection:
            # An application that only ever sends must get to know of its cancellation.
            await asyncio.sleep(0)
            return
        flow: Flow | None = connection.get("flow")
        if flow is None:
            flow = connection["flow"] = self._watch(protocol)
        if not flow.is_open:
            await self._drain(protocol, connection, flow)

    async def _drain(self, protocol: Any, connection: Mapping[str, Any], flow: Flow) -> None:
        progress = _unsent(protocol)
        while "disconnected" not in connection and not await flow.wait(self._slow_reader_seconds):
            before, progress = progress, _unsent(protocol)
            if progress == before:
                logger.info("a client took nothing for %g s and was dropped", self._slow_reader_seconds)
                protocol.transport.abortConnection()
                return

    def _watch(self, protocol: Any) -> Flow:
        flow = Flow()
        if isinstance(protocol, WebRequest):
            if not protocol.finished and protocol.channel is not None:
                protocol.registerProducer(flow, True)
        else:  # a websocket took the transport over from its HTTP channel, which is still its producer
            protocol.transport.unregisterProducer()
            protocol.transport.registerProducer(flow, True)
        return flow

    def listen_error(self, failure: Any) -> None:
        self.failure = failure.getErrorMessage()
        self.stop()

    def kill_all_applications(self) -> Deferred[None]:
        """Called before the end, which waits for the result: let what runs end in order, then cancel what is left."""
        return Deferred.fromFuture(asyncio.ensure_future(self._shut_down()))

    async def _shut_down(self) -> None:
        if self._port is not None:
            self._port.stopListening()
        if self._handover is not None:
            self._handover.stop()
        if self._on_shutdown is not None:
            try:
                async with asyncio.timeout(SHUTDOWN_SECONDS):
                    await self._on_shutdown()
            except Exception:
                logger.exception("the shutdown was not orderly")
        for seconds in (ENDING_SECONDS, CANCELLING_SECONDS):
            running = [task for task in map(_application_of, self.connections.values()) if task and not task.done()]
            if running:
                _, left = await asyncio.wait(running, timeout=seconds)
                for task in left:
                    task.cancel()

    def _adopt(self) -> None:
        if self._handover is not None:
            self._handover.listen(self.http_factory)
        if self._socket is not None:
            self._socket.listen(_BACKLOG)
            self._socket.setblocking(False)
            self._port = reactor.adoptStreamPort(self._socket.fileno(), self._socket.family, self.http_factory)

    def _make_http_factory(self, server: "WebServer") -> HTTPFactory:
        return BoundedHTTPFactory(server, self._body_limit, self._handover)


class BoundedHTTPFactory(HTTPFactory):  # type: ignore[misc]  # daphne has no types
    """Makes connections whose requests are bounded."""

    def __init__(self, server: WebServer, body_limit: Callable[[str], int], handover: Handover | None) -> None:
        super().__init__(server)
        attributes = {"body_limit": staticmethod(body_limit), "handover": handover}
        self._request_class = type("LimitedRequest", (BoundedRequest,), attributes)

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 — Twisted's name
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = self._request_class
        return protocol


def _send(transport: Any, data: bytes) -> None:
    """Past the transport's buffer if that is empty."""
    sent = 0
    if _takes_directly(transport):
        with suppress(OSError):  # no room, or a connection that is gone, which Twisted finds by itself
            sent = transport.socket.send(data)
    if sent < len(data):
        transport.write(data[sent:])


def _takes_directly(transport: Any) -> bool:
    """Whether it is a plain TCP connection with nothing unsent."""
    if not isinstance(transport, Connection) or transport.TLS or transport.disconnecting:
        return False
    return not transport.dataBuffer and not transport._tempDataBuffer


def _application_of(connection: Mapping[str, Any]) -> "asyncio.Task[None] | None":
    return connection.get("application_instance")


def _unsent(protocol: Any) -> tuple[int, int, int]:
    """Changes whenever the client took something, as long as nothing more is written."""
    transport = getattr(protocol, "transport", None)
    buffered = len(getattr(transport, "dataBuffer", b"")), getattr(transport, "offset", 0)
    return (*buffered, _unacknowledged(getattr(transport, "socket", None)))


def _unacknowledged(connection: Any) -> int:
    """Bytes in the kernel's buffer, which may be megabytes and tells of room only once a third of it is free."""
    if connection is None or not hasattr(termios, "TIOCOUTQ"):
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0
