"""Which layers of a model go to which device. Knows no torch."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """Layers [first, first + count) on a device."""

    device: str
    first: int
    count: int


def split_layers(
    devices: Sequence[str], room: Sequence[int], *, layers: int, layer_bytes: int, first_bytes: int, last_bytes: int
) -> tuple[Part, ...]:
    """Consecutive layers for each device, so that all are filled to about the same share of their `room` in bytes.

    `first_bytes` and `last_bytes` are what the first and the last device hold besides: embedding and head. Every
    device gets a layer at least. Raises ValueError for more devices than layers.
    """
    if len(devices) > layers:
        raise ValueError(f"{layers} layers can't be split over {len(devices)} devices")
    total = first_bytes + layers * layer_bytes + last_bytes
    whole = sum(room) or 1
    parts: list[Part] = []
    at, reached = 0, 0.0
    for index, (device, free) in enumerate(zip(devices, room, strict=True)):
        rest = len(devices) - index - 1
        reached += total * (free / whole if sum(room) else 1 / len(devices))
        wanted = round((reached - first_bytes) / layer_bytes) - at if rest else layers - at
        count = max(1, min(wanted, layers - at - rest))
        parts.append(Part(device, at, count))
        at += count
    return tuple(parts)
