"""Events as their watchers get them; each form is made once, however many get it."""

from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import msgspec

from accounts.caller import Caller
from common.direct_frames import text_frame
from common.envelope import timestamp
from common.event_reader import Recorded, place_of
from common.events import OwnedEvent

_encode = msgspec.json.Encoder(enc_hook=str).encode


class View:
    """A message to watchers: an event, or an answer to what they asked. `payload` is a JSON object."""

    def __init__(self, name: str, payload: dict[str, Any]) -> None:
        self.name = name
        self.payload = payload

    @cached_property
    def text(self) -> str:
        """For /ws/events: the payload as JSON."""
        return _encode(self.payload).decode()

    @cached_property
    def frame(self) -> bytes:
        """`text` as a websocket frame."""
        return text_frame(self.text)

    @cached_property
    def packet(self) -> str:
        """For Socket.IO: an EVENT packet of the main namespace."""
        return f"2[{_encode(self.name).decode()},{self.text}]"

    @cached_property
    def packet_frame(self) -> bytes:
        """`packet` as a MESSAGE packet of Engine.IO in a websocket frame."""
        return text_frame(f"4{self.packet}")


class News:
    """A recorded event, and what of it each caller sees."""

    def __init__(self, recorded: Recorded) -> None:
        self.event = recorded.event
        self.channel = recorded.event.channel
        self.place = place_of(recorded.id)
        self._recorded = recorded
        self._views: dict[bool, View] = {}

    def is_for(self, caller: Caller) -> bool:
        """Events of requests and jobs are for those whose they are, and for administrators."""
        return not isinstance(self.event, OwnedEvent) or caller.is_admin or self._is_own(caller)

    def view(self, caller: Caller) -> View:
        """What a caller sees whom it is for."""
        is_own = self._is_own(caller)
        if is_own not in self._views:
            self._views[is_own] = View(self.event.name, self._payload(is_own=is_own))
        return self._views[is_own]

    def _is_own(self, caller: Caller) -> bool:
        return (
            isinstance(self.event, OwnedEvent)
            and self.event.user_id is not None
            and self.event.user_id == caller.user_id
        )

    def _payload(self, *, is_own: bool) -> dict[str, Any]:
        """The envelope, with the event's fields both in `data` and beside it: clients of both forms are written."""
        fields = self.event.fields(is_own=is_own)
        envelope = {
            "event": self.event.name,
            "id": self._recorded.id,
            "timestamp": timestamp(datetime.fromtimestamp(self._recorded.at, UTC)),
        }
        return {**fields, **envelope, "data": fields}
