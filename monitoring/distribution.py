"""How a figure is spread: counts in buckets that grow by a constant factor, so that a percentile is at most 1 % off.

Such counts can be added up, which percentiles can't. The method is that of DDSketch (Masson, Rim and Lee, "DDSketch: a
fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019).
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

RELATIVE_ERROR = 0.01
_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = math.log(_GAMMA)
_SMALLEST = 1e-5  # seconds; what is shorter counts as this

_decoder = msgspec.json.Decoder(dict[int, int])


class Distribution:
    """Counts of positive figures."""

    def __init__(self, counts: dict[int, int] | None = None) -> None:
        self._counts = Counter(counts or {})

    @classmethod
    def decode(cls, text: str) -> "Distribution":
        return cls(_decoder.decode(text))

    def encode(self) -> str:
        return msgspec.json.encode(dict(self._counts)).decode()

    def add(self, figures: Iterable[float]) -> None:
        self._counts.update(math.ceil(math.log(max(figure, _SMALLEST)) / _LOG_GAMMA) for figure in figures)

    def percentiles(self, shares: Sequence[float]) -> list[float | None]:
        """The figures that these shares (0 to 1, ascending) of all figures don't exceed; None where there are none."""
        total = self._counts.total()
        if not total:
            return [None] * len(shares)
        found: list[float | None] = []
        passed = 0
        buckets = iter(sorted(self._counts.items()))
        index = 0
        for share in shares:
            rank = max(1, math.ceil(share * total))
            while passed < rank:
                index, count = next(buckets)
                passed += count
            found.append(2 * _GAMMA**index / (_GAMMA + 1))
        return found
