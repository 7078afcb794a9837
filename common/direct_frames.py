"""Writing prepared frames straight to a websocket, past ASGI's `send`.

The same event goes to many sockets: its frame is made once, and written to each without a task switch, a coroutine and
a frame of its own. A server that offers this puts an object like DirectFrames into the scope's extensions.
"""

from collections.abc import Mapping
from typing import Any, Protocol

EXTENSION = "llama_gpu.direct_frames"


class DirectFrames(Protocol):
    """One websocket's outgoing side."""

    @property
    def is_open(self) -> bool:
        """Whether a frame may be written now; if not, the message has to go through `send`, which waits."""

    def write(self, frame: bytes) -> None:
        """Write a whole frame; only while `is_open`."""

    def abort(self) -> None:
        """Cut the connection, whatever has not been sent."""


def direct_frames(scope: Mapping[str, Any]) -> DirectFrames | None:
    """The outgoing side of a scope's websocket, if the server offers this."""
    found: DirectFrames | None = scope.get("extensions", {}).get(EXTENSION)
    return found


def text_frame(text: str) -> bytes:
    """An unmasked websocket frame that holds a whole text message (RFC 6455, section 5.2)."""
    payload = text.encode()
    length = len(payload)
    if length < 126:
        return bytes((0x81, length)) + payload
    if length < 65536:
        return b"\x81\x7e" + length.to_bytes(2) + payload
    return b"\x81\x7f" + length.to_bytes(8) + payload
