"""Who takes requests that are to be answered later: a higher layer registers itself here."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rest_framework.request import Request

from accounts.caller import Caller
from common.errors import BackendUnavailable
from inference.messages import Kind


@dataclass(frozen=True, slots=True)
class Deferred:
    """A checked request whose caller does not wait. `items`: each prompt's id, and its body as it came; `defaults`:
    parameters of all of them. `webhook_url`: who is told of the end, or ""."""

    caller: Caller
    kind: Kind
    model: str
    items: Sequence[tuple[str, dict[str, Any]]]
    defaults: dict[str, Any] = field(default_factory=dict)
    webhook_url: str = ""


# Keeps a request and returns what its caller is told of it.
Taker = Callable[[Deferred], Awaitable[dict[str, Any]]]
_takers: list[Taker] = []


def deferred_to(taker: Taker) -> None:
    """Register who takes them."""
    _takers[:] = [taker]


def wants_deferral(request: Request, *, asked: bool) -> bool:
    """Whether the body or the header of RFC 7240 asks for an answer later."""
    preferences = request.headers.get("Prefer", "").split(",")
    return asked or any(preference.partition(";")[0].strip().lower() == "respond-async" for preference in preferences)


async def defer(deferred: Deferred) -> dict[str, Any]:
    """Raises ApiError."""
    if not _takers:
        raise BackendUnavailable("This server keeps no jobs.")
    return await _takers[0](deferred)
