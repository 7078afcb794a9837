"""Finished hours whose answers are kept, so that a week by the minute is put together from 168 rows.

`monitoring.packing` makes them and `monitoring.answers` reads them. The minutes stay what counts: they may still change
(a late record, figures counted anew), and whoever changes them says so here.
"""

from collections.abc import Iterable

from monitoring.models import PackedHour

HOUR = 3600


def unpack(moments: Iterable[float]) -> None:
    """The figures of these times (Unix seconds) are changed: to be called after that, in the same transaction."""
    # Also those that are not packed yet: whoever is about to pack one is to be waited for.
    PackedHour.objects.filter(hour__in={int(moment) // HOUR for moment in moments}).update(packed=False)


def unpack_all() -> None:
    """All figures are changed: to be called after that, in the same transaction."""
    PackedHour.objects.update(packed=False)
