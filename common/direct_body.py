"""An ASGI extension of our web server: a part of a response's body, written without the way through the application.

A stream of tokens sends thousands of small parts per second; the coroutines, futures and messages between whoever has a
part and the socket cost several times what writing it does. An application that finds the extension in its scope may
write a part itself whenever the response has begun, the parts before it were handed over, and the client keeps up.
Other servers don't have it, and everything goes through `send`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

EXTENSION = "llama_gpu.direct_body"


class DirectBody(Protocol):
    """One response's body."""

    @property
    def is_open(self) -> bool:
        """Whether a part may be written now; if not, it has to go through `send`, which waits for the client."""

    def write(self, data: bytes) -> None:
        """Write a part of the body; only while `is_open`."""


def direct_body(scope: Mapping[str, Any]) -> DirectBody | None:
    """The body of a request's response, if the server offers this."""
    found: DirectBody | None = scope.get("extensions", {}).get(EXTENSION)
    return found
