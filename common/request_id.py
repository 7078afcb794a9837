"""The id that follows a request through responses, logs, events and records."""

import re
import secrets
from contextvars import ContextVar

_WELL_FORMED = re.compile(r"[A-Za-z0-9_-]{1,64}")

request_id: ContextVar[str] = ContextVar("request_id", default="")


def new_request_id() -> str:
    """`req_` and 20 URL-safe characters (120 bits)."""
    return f"req_{secrets.token_urlsafe(15)}"


def is_well_formed(candidate: str) -> bool:
    """Whether an inbound id may be kept as it is."""
    return _WELL_FORMED.fullmatch(candidate) is not None
