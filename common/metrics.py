"""Counters and histograms over all processes, for Prometheus.

Every process adds up in memory and, once a second, adds that to one hash in Redis, on a thread of its own. Whoever is
asked for the figures reads the hash, so it does not matter which web process that is, and a worker that ends takes
nothing with it but its last second at most. What can't be written waits until Redis is back.
"""

import logging
import math
import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import redis

from common.redis import key, redis_line, sync_redis

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
_SEPARATOR = "\x1f"
_SUM = "sum"

_ADD = """
for i = 1, #ARGV, 2 do redis.call('HINCRBYFLOAT', KEYS[1], ARGV[i], ARGV[i + 1]) end
"""


class Field(NamedTuple):
    """One number. `part`: of a histogram, the number of its bucket (the last one is open) or `sum`; else empty."""

    name: str
    labels: tuple[str, ...]
    part: str = ""

    def encode(self) -> str:
        return _SEPARATOR.join((self.name, *self.labels, self.part))


class Counter:
    """Only ever grows. Its name says the unit and ends in `_total`."""

    def __init__(self, name: str, about: str, labels: tuple[str, ...] = ()) -> None:
        self.name = name
        self.about = about
        self.labels = labels

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Count for these values of its labels."""
        if by:
            _pending.add({Field(self.name, labels): by})


class Histogram:
    """How often a value fell into each bucket. `bounds`: the upper ends, which belong to their buckets."""

    def __init__(self, name: str, about: str, labels: tuple[str, ...], bounds: Sequence[float]) -> None:
        self.name = name
        self.about = about
        self.labels = labels
        self.bounds = tuple(bounds)

    def observe(self, *labels: str, value: float) -> None:
        """Count one value for these values of its labels."""
        bucket = str(bisect_left(self.bounds, value))
        _pending.add({Field(self.name, labels, bucket): 1.0, Field(self.name, labels, _SUM): value})

    def merge(self, *labels: str, counts: Sequence[int], total: float) -> None:
        """Add what was counted elsewhere: the values in each bucket, and their sum."""
        if len(counts) != len(self.bounds) + 1:
            raise ValueError(f"{self.name} has {len(self.bounds) + 1} buckets")
        added = {Field(self.name, labels, str(bucket)): float(count) for bucket, count in enumerate(counts) if count}
        _pending.add({**added, Field(self.name, labels, _SUM): total})


class _Pending:
    """What this process has counted and not written yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._amounts: dict[Field, float] = {}

    def add(self, amounts: Mapping[Field, float]) -> None:
        with self._lock:
            for field, amount in amounts.items():
                if math.isfinite(amount):
                    self._amounts[field] = self._amounts.get(field, 0.0) + amount

    def take(self) -> dict[Field, float]:
        with self._lock:
            taken, self._amounts = self._amounts, {}
            return taken


_pending = _Pending()


def flush() -> None:
    """Write what this process has counted. Raises redis.RedisError; it is kept then."""
    amounts = _pending.take()
    if not amounts:
        return
    arguments = [part for field, amount in amounts.items() for part in (field.encode(), repr(amount))]
    try:
        cast("Any", sync_redis()).eval(_ADD, 1, _key(), *arguments)
    except redis.RedisError:
        _pending.add(amounts)
        raise


def forget() -> None:
    """Drop what this process has counted and not written; for tests."""
    _pending.take()


async def read() -> dict[Field, float]:
    """Everything that all processes have counted and written. Raises redis.RedisError."""
    answer: Any = await redis_line().execute("HGETALL", _key())
    pairs = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
    return {_decoded(name.decode()): float(value) for name, value in pairs}


class Flusher:
    """A thread that writes what this process counts, until it is stopped."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, then end."""
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stopping.wait(FLUSH_SECONDS)
            try:
                flush()
            except redis.RedisError as error:
                logger.debug("the metrics wait for Redis: %s", error)
            except Exception:
                logger.exception("metrics were lost")


def _decoded(name: str) -> Field:
    metric, *labels, part = name.split(_SEPARATOR)
    return Field(metric, tuple(labels), part)


def _key() -> str:
    return key("metrics")
