"""Whose items are sent next: the same number for each owner, however many jobs one has."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Premium owners have so many times the items in work that standard ones have.
PREMIUM_WEIGHT = 4


@dataclass(frozen=True, slots=True)
class Contender:
    """A job that has something to be sent. `limit`: how many of it may be in work at once; None for no limit."""

    job_id: str
    owner_id: int
    weight: int = 1
    limit: int | None = None


def shared_out(room: int, contenders: Sequence[Contender], in_work: Mapping[str, int]) -> dict[str, int]:
    """How many items of each job to send, at most `room` together. `in_work`: by job, what was sent before.

    One place after the other goes to the owner who has the least for their weight, and of their jobs to the one that
    has the least; of equals to the one that comes first.
    """
    held = Counter({one.job_id: in_work.get(one.job_id, 0) for one in contenders})
    owned = Counter[int]()
    for one in contenders:
        owned[one.owner_id] += held[one.job_id]
    given = Counter[str]()
    for _ in range(room):
        open_ones = [one for one in contenders if one.limit is None or held[one.job_id] < one.limit]
        if not open_ones:
            break
        chosen = min(open_ones, key=lambda one: (owned[one.owner_id] / one.weight, held[one.job_id]))
        held[chosen.job_id] += 1
        owned[chosen.owner_id] += 1
        given[chosen.job_id] += 1
    return dict(given)
