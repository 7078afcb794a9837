"""The seam for traces: what this server tells of a request's way, to whatever tracer is plugged in.

Spans are told once they are over, as a tree with their times, except for its root: that is opened first, since whoever
the request is handed on to must know it. Without a tracer nothing is gathered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Attributes = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Span:
    """Something that has happened. `start` and `end`: Unix time, by this host's clock."""

    name: str
    start: float
    end: float
    attributes: Attributes = field(default_factory=dict)


class OpenSpan(Protocol):
    """The root of what one process does for a request."""

    @property
    def carrier(self) -> dict[str, str]:
        """The headers of W3C's trace context, for those that the request is handed on to."""

    def close(
        self,
        *,
        name: str,
        end: float,
        attributes: Attributes,
        children: Sequence[Span] = (),
        error: str = "",
    ) -> None:
        """It is over. `error`: what went wrong, if anything, without any text of the request's."""


class Tracer(Protocol):
    def open(self, *, is_entry: bool, start: float, carrier: Mapping[str, str]) -> OpenSpan:
        """Begin a span below the one that `carrier` names, if it does. `is_entry`: whether it answers a client."""


_tracer: Tracer | None = None


def install(tracer: Tracer | None) -> None:
    """Plug in what this process's spans go to; None: nothing."""
    global _tracer  # noqa: PLW0603 - one per process
    _tracer = tracer


def tracer() -> Tracer | None:
    return _tracer
