"""The stages of a request's way, from its record."""

from collections.abc import Iterator
from dataclasses import dataclass

from inference.models import RequestRecord

AUTH, PREPARE, DISPATCH, PLUGINS, ADMISSION, QUEUE, PREFILL, DECODE, ENGINE, DELIVERY = STAGES = (
    "auth",
    "prepare",
    "dispatch",
    "plugins",
    "admission",
    "queue",
    "prefill",
    "decode",
    "engine",
    "delivery",
)
# Those that the web process sees; the others begin with the request's submission, in its worker.
WEB_STAGES = (AUTH, PREPARE)


@dataclass(frozen=True, slots=True)
class Stage:
    """`start`: seconds after the request's arrival."""

    name: str
    start: float
    seconds: float


def stages(record: RequestRecord) -> list[Stage]:
    """What the request went through, in order and without gaps.

    One that failed or was cancelled has the stages that it came to, and the one in which it ended lasts to its end. Of
    one that failed in the engine the engine's times are not known: they are one stage.
    """
    found: list[Stage] = []
    start = 0.0
    for name, end in _ends(record):
        seconds = max(0.0, end - start)
        found.append(Stage(name, start, seconds))
        start += seconds
    return found


def _ends(record: RequestRecord) -> Iterator[tuple[str, float]]:
    submitted = record.door_time
    end = submitted + record.total_time
    yield AUTH, record.auth_time
    yield PREPARE, submitted
    yield DISPATCH, submitted + record.taken_time
    if not record.prepared_time:
        yield PLUGINS, end
        return
    yield PLUGINS, submitted + record.prepared_time
    if not record.accept_time:
        yield ADMISSION, end
        return
    accepted = submitted + record.accept_time
    yield ADMISSION, accepted
    if not record.finish_reason:
        yield ENGINE, end
    elif record.state == RequestRecord.State.COMPLETED:
        yield QUEUE, accepted + record.queue_time
        yield PREFILL, accepted + record.queue_time + record.prefill_time
        yield DECODE, accepted + record.queue_time + record.prefill_time + record.decode_time
        yield DELIVERY, end
    else:
        yield from _until_cancelled(record, accepted, end)


def _until_cancelled(record: RequestRecord, accepted: float, end: float) -> Iterator[tuple[str, float]]:
    if not record.completion_tokens and not record.prefill_time:
        yield QUEUE, end
        return
    yield QUEUE, accepted + record.queue_time
    if not record.completion_tokens:
        yield PREFILL, end
        return
    yield PREFILL, accepted + record.queue_time + record.prefill_time
    yield DECODE, end
