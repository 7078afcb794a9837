"""What the steps of the engine's loop were like, gathered until somebody is told."""

from bisect import bisect_left

from engine.messages import BATCH_BOUNDS, TOKEN_GAP_BOUNDS, StepFigures

TELL_SECONDS = 1.0


class FiguresGatherer:
    """Counts in histograms, so that what is told is small however many steps it sums up."""

    def __init__(self) -> None:
        self._told_at = 0.0
        self._empty = True
        self._reset()

    def batch(self, sequences: int) -> None:
        """Count a step of so many sequences."""
        self._batches[bisect_left(BATCH_BOUNDS, sequences)] += 1
        self._sequences += sequences
        self._empty = False

    def gap(self, seconds: float) -> None:
        """Count the time between a sequence's last two tokens."""
        self._gaps[bisect_left(TOKEN_GAP_BOUNDS, seconds)] += 1
        self._gap_seconds += seconds

    def take(self, now: float, *, idle: bool) -> StepFigures | None:
        """What has gathered: once a second while there is work, and at its end."""
        if self._empty or not (idle or now - self._told_at >= TELL_SECONDS):
            return None
        figures = StepFigures(tuple(self._gaps), self._gap_seconds, tuple(self._batches), self._sequences)
        self._told_at = now
        self._reset()
        return figures

    def _reset(self) -> None:
        self._gaps = [0] * (len(TOKEN_GAP_BOUNDS) + 1)
        self._gap_seconds = 0.0
        self._batches = [0] * (len(BATCH_BOUNDS) + 1)
        self._sequences = 0
        self._empty = True
