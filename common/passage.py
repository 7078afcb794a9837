"""A request's way through a web process: when it came, when it was let in, and what it is traced by."""

import time
from collections.abc import Mapping
from contextvars import ContextVar

from common import tracing
from common.tracing import OpenSpan, Span


class Passage:
    """Times by the steady clock. `door_time` is set when the request is handed on to a worker."""

    def __init__(self, carrier: Mapping[str, str] | None) -> None:
        """`carrier`: the request's headers of W3C's trace context; None for a request that is not traced."""
        self._arrived = time.perf_counter()
        self._arrived_at = time.time()
        self.auth_time = 0.0
        self.door_time: float | None = None
        self.is_over = False
        tracer = tracing.tracer()
        self._span: OpenSpan | None = None
        if tracer is not None and carrier is not None:
            self._span = tracer.open(is_entry=True, start=self._arrived_at, carrier=carrier)

    @property
    def age(self) -> float:
        """Seconds since it came."""
        return time.perf_counter() - self._arrived

    @property
    def carrier(self) -> dict[str, str]:
        """What a worker needs to go on with the trace."""
        return self._span.carrier if self._span is not None else {}

    def admitted(self) -> None:
        """Its caller is known, and may do this."""
        self.auth_time = self.age

    def handed_on(self) -> None:
        """It goes to a worker now."""
        self.door_time = self.age

    def over(self, *, method: str, route: str, code: int, request_id: str) -> None:
        """The answer has gone out, or nobody wants it any more. Safe to repeat."""
        if self.is_over:
            return
        self.is_over = True
        if self._span is None:
            return
        children = []
        if self.auth_time:
            children.append(self._child("auth", 0.0, self.auth_time))
        if self.door_time is not None:
            children.append(self._child("prepare", self.auth_time, self.door_time))
        self._span.close(
            name=f"{method} {route}",
            end=self._arrived_at + self.age,
            attributes={
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": code,
                "llama_gpu.request_id": request_id,
            },
            children=children,
            error=str(code) if code >= 500 or code == CLIENT_LEFT else "",
        )

    def _child(self, name: str, start: float, end: float) -> Span:
        return Span(name, self._arrived_at + start, self._arrived_at + end)


CLIENT_LEFT = 499
passage: ContextVar[Passage | None] = ContextVar("passage", default=None)


def arrival() -> float:
    """When the current request came, by time.perf_counter(); now, if there is none."""
    way = passage.get()
    return time.perf_counter() - (way.age if way is not None else 0.0)
