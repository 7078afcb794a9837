"""How a model has done lately, from the requests' records, which a higher layer keeps and registers."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figures:
    """Measured figures; None for what nothing has been measured of.

    `tokens_per_second`: decode speed of one request. `avg_latency`: seconds per request, queueing included.
    """

    tokens_per_second: float | None = None
    avg_latency: float | None = None
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Performance:
    """Of the last hour, and of all time."""

    lately: Figures = Figures()
    total: Figures = Figures()


Measure = Callable[[str], Performance]
_measures: list[Measure] = []


def measured_by(measure: Measure) -> None:
    """Register the function that knows a model's figures by its id; the last one registered counts."""
    _measures[:] = [measure]


def performance_of(model_id: str) -> Performance:
    return _measures[0](model_id) if _measures else Performance()
