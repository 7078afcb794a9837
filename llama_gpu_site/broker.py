"""Kombu's Redis transport with two differences.

It keeps one client object per channel, instead of making a new one for every command, which costs as much as the
command: about a tenth of a worker's time per request.

Kombu's priorities are strict: while urgent work keeps coming, other work waits for ever. Here every fifth message
that a worker takes is one of the lowest priority that waits, so that standard work has a fifth of the turns, however
much premium work there is. The engine's waiting queue does the same. Work in the background is left out of this: it is
taken when nothing else waits, but for every 25th message.
"""

import threading
from typing import Any

import kombu.transport.redis
from kombu.transport import TRANSPORT_ALIASES

# Of five messages taken while both wait, one is of the lowest priority.
LOWER_PRIORITY_TURN = 5
# Of twenty-five, one is of the background, whatever else waits; it takes a turn of premium work, not of the lower one.
BACKGROUND_TURN = 25

_Channel: Any = kombu.transport.redis.Channel


class Channel(_Channel):  # type: ignore[misc]  # kombu has no types
    """Keeps the client of its connection pool, which threads may share, and gives low priorities their turn."""

    _kept_client: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._turn = 0
        self._asking = threading.local()
        super().__init__(*args, **kwargs)

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask for the next message, whose list Redis finds by the order in which they are named."""
        self._asking.order = self._order()
        try:
            super()._brpop_start(timeout)
        finally:
            self._asking.order = None

    def _brpop_read(self, **options: Any) -> Any:
        taken = super()._brpop_read(**options)
        self._turn = (self._turn + 1) % BACKGROUND_TURN
        return taken

    def _order(self) -> list[int]:
        """The priorities in the order in which they are asked for now."""
        *others, background = self.priority_steps
        if self._turn % LOWER_PRIORITY_TURN == LOWER_PRIORITY_TURN - 1:
            others.reverse()
        return [background, *others] if self._turn == BACKGROUND_TURN - 2 else [*others, background]

    def _q_for_pri(self, queue: str, priority: int) -> str:
        if (order := getattr(self._asking, "order", None)) is not None:
            priority = order[self.priority_steps.index(priority)]
        name: str = super()._q_for_pri(queue, priority)
        return name

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._kept_client is None or self._kept_client.connection_pool is not self.pool:
            self._kept_client = super()._create_client()
        return self._kept_client


class Transport(kombu.transport.redis.Transport):
    Channel = Channel


def install() -> None:
    """Make it the transport of redis:// addresses."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
