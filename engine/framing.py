"""Length-prefixed MessagePack frames over a stream socket."""

import socket
import struct
import threading
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

_LENGTH = struct.Struct("!I")
MAX_FRAME_BYTES = 256 * 1024 * 1024


class FrameSender:
    """Writes messages to a socket; safe to call from several threads."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._encoder = msgspec.msgpack.Encoder()

    def send(self, message: msgspec.Struct) -> None:
        """Send one message. Raises OSError when the other side is gone."""
        body = self._encoder.encode(message)
        with self._lock:
            self._sock.sendall(_LENGTH.pack(len(body)) + body)


class FrameReceiver(Generic[T]):
    """Reads messages of one type from a socket; one thread only."""

    def __init__(self, sock: socket.socket, message_type: Any) -> None:
        self._file = sock.makefile("rb", buffering=1 << 16)
        self._decoder = msgspec.msgpack.Decoder(message_type)

    def receive(self) -> T | None:
        """Return the next message, or None when the other side has closed."""
        header = self._read(_LENGTH.size)
        if header is None:
            return None
        (length,) = _LENGTH.unpack(header)
        if length > MAX_FRAME_BYTES:
            raise ValueError(f"frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
        body = self._read(length)
        return None if body is None else self._decoder.decode(body)

    def _read(self, count: int) -> bytes | None:
        try:
            data = self._file.read(count)
        except OSError:
            return None
        return data if len(data) == count else None
