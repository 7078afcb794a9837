"""What is known of the hosts and of the requests of the last minutes; nothing here writes."""

from dataclasses import dataclass, field

import msgspec
from django.conf import settings
from django.db.models import Sum

from accounts import usage
from accounts.models import DailyUsage
from monitoring.gpus import Gpu
from monitoring.hosts import HostFigures
from monitoring.models import HostSample, RequestBucket
from monitoring.rollups import ALL_MODELS

_FRESH_READINGS = 3
_LATELY_MINUTES = 5
_gpus_decoder = msgspec.json.Decoder(tuple[Gpu, ...])
_FIGURES = HostFigures.__struct_fields__


@dataclass(frozen=True, slots=True)
class LiveHost:
    """The last reading of a host. `at`: Unix time."""

    host: str
    at: float
    figures: HostFigures
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True, slots=True)
class Lately:
    """The requests that ended in the last five minutes. Times in seconds; None where there were none."""

    requests: int
    completed: int
    requests_per_minute: float
    tokens_per_second: float
    avg_response_time: float | None
    time_to_first_token: float | None
    error_rate: float | None


@dataclass(frozen=True, slots=True)
class Totals:
    """All requests that have ever ended; items of batches count one by one."""

    counts: dict[str, int] = field(default_factory=dict)

    @property
    def error_rate(self) -> float:
        """The share that failed, 0 to 1; what its caller cancelled has not failed."""
        return round(self.counts["failed"] / self.counts["requests"], 4) if self.counts["requests"] else 0.0


def live_hosts(now: float) -> list[LiveHost]:
    """The hosts that were read in the last seconds, by name."""
    oldest = now - _FRESH_READINGS * settings.SAMPLE_SECONDS
    samples = HostSample.objects.filter(minute__gte=int(oldest // 60), at__gte=oldest).order_by("at")
    last = {sample.host: sample for sample in samples}
    return [_live(last[host]) for host in sorted(last)]


def lately(now: float) -> Lately:
    """`now`: Unix time by Redis' clock, which the records have, too."""
    first = (int(now // 60) - _LATELY_MINUTES + 1) * 60
    sums = RequestBucket.objects.filter(seconds=60, model=ALL_MODELS, start__gte=first, start__lte=int(now)).aggregate(
        **{
            name: Sum(name, default=0)
            for name in ("requests", "completed", "failed", "completion_tokens", "total_time", "first_token_time")
        }
    )
    seconds, completed = now - first, sums["completed"]
    return Lately(
        requests=sums["requests"],
        completed=completed,
        requests_per_minute=round(60 * sums["requests"] / seconds, 2),
        tokens_per_second=round(sums["completion_tokens"] / seconds, 2),
        avg_response_time=round(sums["total_time"] / completed, 4) if completed else None,
        time_to_first_token=round(sums["first_token_time"] / completed, 4) if completed else None,
        error_rate=round(sums["failed"] / sums["requests"], 4) if sums["requests"] else None,
    )


def totals() -> Totals:
    """From the usage by day, which is never dropped."""
    return Totals(usage.total(DailyUsage.objects.all()))


def _live(sample: HostSample) -> LiveHost:
    figures = HostFigures(**{name: getattr(sample, name) for name in _FIGURES})
    return LiveHost(sample.host, sample.at, figures, _gpus_decoder.decode(sample.gpus))
