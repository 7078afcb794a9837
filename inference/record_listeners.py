"""Who else adds the requests' records up: higher layers register themselves here."""

from collections.abc import Callable, Sequence

from inference.models import RequestRecord

Listener = Callable[[Sequence[RequestRecord]], None]
_listeners: list[Listener] = []


def records_added_up_by(listener: Listener) -> None:
    """Register a function that gets each batch of records, in the transaction that writes them."""
    if listener not in _listeners:
        _listeners.append(listener)


def tell_listeners(records: Sequence[RequestRecord]) -> None:
    for listener in _listeners:
        listener(records)
