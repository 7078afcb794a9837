"""Hands connections to the web process that they belong to.

The web processes share one port, and the kernel gives a new connection to any of them. A Socket.IO session lives in one
process; what arrives for it in another one is passed on to that process's private socket, byte by byte and both ways:
polls, posts, and the websocket that a polling client changes over to.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings
from twisted.internet import reactor
from twisted.internet.protocol import ClientFactory, Protocol

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0


def handover_folder() -> Path:
    """Where the web processes of this installation on this host have their sockets, for their user only.

    Not the data folder, whose path may be longer than a socket's name can be.
    """
    name = hashlib.sha256(str(settings.DATA_DIR).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"llama-gpu-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} belongs to somebody else.")
    return folder


class Handover:
    """`process_id` is this process's name, `process_of` tells from a request's address to which one it belongs."""

    def __init__(self, process_id: str, process_of: Callable[[bytes], str]) -> None:
        self._process_id = process_id
        self._process_of = process_of
        self._port: Any = None
        self._folder: Path | None = None

    def listen(self, factory: Any) -> None:
        """Take what other processes hand over."""
        try:
            self._folder = handover_folder()
            self._port = reactor.listenUNIX(str(self._folder / self._process_id), factory, mode=0o600)
        except Exception:  # polling clients of several processes are worse off; all others are not
            logger.warning("connections can't be handed over between web processes", exc_info=True)

    def stop(self) -> None:
        if self._port is not None:
            self._port.stopListening()

    def owner_of(self, uri: bytes) -> Path | None:
        """The socket of another process that a request belongs to, if it is alive."""
        process_id = self._process_of(uri)
        if not process_id or process_id == self._process_id or self._folder is None:
            return None
        path = self._folder / process_id
        return path if path.is_socket() else None

    def hand_over(self, request: Any, path: Path, refused: Callable[[], None]) -> None:
        """Pass a request and its connection on; `refused` is called if its owner does not answer."""
        reactor.connectUNIX(str(path), _OwnerFactory(request, refused), timeout=CONNECT_SECONDS)


class _OwnerFactory(ClientFactory):
    noisy = False

    def __init__(self, request: Any, refused: Callable[[], None]) -> None:
        self._request = request
        self._refused = refused

    def buildProtocol(self, addr: Any) -> Protocol:  # noqa: N802 — Twisted's name
        return _Owner(self._request)

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:  # noqa: N802 — Twisted's name
        if self._request.channel is not None:
            self._refused()


class _Relay(Protocol):
    """One side; what it receives goes out at the other, no faster than that takes it."""

    other: Any = None
    transport: Any = None

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 — Twisted's name
        self.other.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:  # noqa: N802 — Twisted's name
        if self.other is not None:
            self.other.transport.loseConnection()


class _Owner(_Relay):
    """The connection to the owner. It is told the request again, and then has the client's connection."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def connectionMade(self) -> None:  # noqa: N802 — Twisted's name
        request = self._request
        if request.channel is None or request.transport is None:  # the client has gone meanwhile
            self.transport.loseConnection()
            return
        client = _Relay()
        client.other, self.other = self, client
        transport, request.transport = request.transport, None
        transport.unregisterProducer()
        transport.protocol = client
        client.makeConnection(transport)  # type: ignore[no-untyped-call]
        self.transport.write(_as_sent(request))
        transport.registerProducer(self.transport, True)
        self.transport.registerProducer(transport, True)
        transport.resumeProducing()
        request.server.protocol_disconnected(request)


def _as_sent(request: Any) -> bytes:
    """The request's bytes. The answer ends the connection, so that nothing but it has to be read."""
    is_websocket = request.requestHeaders.hasHeader(b"Upgrade")
    lines = [b"%b %b HTTP/1.1" % (request.method, request.uri)]
    for name, values in request.requestHeaders.getAllRawHeaders():
        if is_websocket or name.lower() not in (b"connection", b"transfer-encoding", b"content-length"):
            lines += [b"%b: %b" % (name, value) for value in values]
    request.content.seek(0)
    body = request.content.read()
    if not is_websocket:
        lines += [b"Connection: close", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body])
