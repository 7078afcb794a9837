"""What a watcher asks for, and what of it is granted."""

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from accounts.caller import Caller, Permission
from common.errors import InvalidInput
from common.event_reader import is_event_id
from common.events import CHANNELS, Channel

T = TypeVar("T")
MAX_REPLAY = 500
_ADMIN_CHANNELS: tuple[Channel, ...] = ("log_events",)


class Subscribe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Channels to watch from now on. `replay`: the last so many events of them first. `after`: all that came after the
    event with this id first, MAX_REPLAY at most."""

    channels: list[str]
    replay: int = 0
    after: str | None = None


class Unsubscribe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Channels to leave; without any, all."""

    channels: list[str] | None = None


def read_subscribe(data: Any) -> Subscribe:
    """What a client sent, checked. Raises InvalidInput."""
    wanted = _converted(data, Subscribe)
    if not 0 <= wanted.replay <= MAX_REPLAY:
        raise InvalidInput(f"It is a number from 0 to {MAX_REPLAY}.", field="replay")
    if wanted.after is not None and not is_event_id(wanted.after):
        raise InvalidInput("It is the id of an event.", field="after")
    return wanted


def read_unsubscribe(data: Any) -> Unsubscribe:
    """What a client sent, checked. Raises InvalidInput."""
    return _converted({} if data is None else data, Unsubscribe)


def needed_permission(channel: Channel) -> Permission:
    """What it takes to watch a channel."""
    return "admin" if channel in _ADMIN_CHANNELS else "read"


def decide(caller: Caller, channels: Iterable[str]) -> tuple[list[Channel], list[dict[str, str]]]:
    """The channels that this caller may watch, and why each of the others is refused."""
    granted: list[Channel] = []
    refused: list[dict[str, str]] = []
    for name in dict.fromkeys(channels):
        if name not in CHANNELS:
            message = f"There is no such channel; there are {', '.join(CHANNELS)}."
            refused.append({"channel": name[:64], "code": "INVALID_INPUT", "message": message})
            continue
        channel: Channel = name
        needed = needed_permission(channel)
        if needed in caller.permissions:
            granted.append(channel)
        else:
            message = f"It takes the permission {needed}."
            refused.append({"channel": channel, "code": "PERMISSION_DENIED", "message": message})
    return granted, refused


def _converted(data: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{error}.") from None
