"""What the gateway of a web process and a worker say to each other, through the broker and Redis."""

from typing import Literal

import msgspec

from engine.messages import Generate, RequestEvent

Kind = Literal["infer", "batch_infer", "stream_infer", "chat_completions", "completions", "embeddings"]


class Job(msgspec.Struct, frozen=True):
    """One Celery task: one or more requests for one model that share a deadline.

    Each of `requests` has an id of its own, unique beyond this job: the public `request_id`, which clients may choose
    and repeat, `~`, and the gateway's number. `reply_to` is the web process that waits. `submitted_at` is Redis' time
    in Unix seconds, since the clocks of hosts differ, `seconds` how long it may take from then on. `budgeted`: tokens
    are reserved for each request, to be settled at its end. `auth_time` and `door_time`: seconds from the request's
    arrival until its caller was let in, and until it was submitted. `trace`: the headers of W3C's trace context.
    """

    job_id: str
    request_id: str
    kind: Kind
    model_id: str
    reply_to: str
    requests: tuple[Generate, ...]
    submitted_at: float
    seconds: float
    user_id: int | None = None
    key_id: int | None = None
    budgeted: bool = False
    auth_time: float = 0.0
    door_time: float = 0.0
    trace: dict[str, str] = {}

    def encode(self) -> str:
        return _job_encoder.encode(self).decode()


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """What one worker has to tell one web process. `sequence` counts these frames from 1: none is lost unseen."""

    worker_id: str
    backend: str
    sequence: int
    events: tuple[RequestEvent, ...]

    def encode(self) -> bytes:
        return _frame_encoder.encode(self)


# Why the web process has ended a request whose worker fell silent. It has told of it and kept its record: should the
# worker speak again, it says nothing more.
WORKER_LOST = "worker_lost"


class Cancel(msgspec.Struct, frozen=True):
    """Ends requests at the worker that runs them. `reason`: `disconnected`, `timeout`, `slow_reader`, `lost` (some of
    its output), or WORKER_LOST."""

    request_ids: tuple[str, ...]
    reason: str

    def encode(self) -> bytes:
        return _frame_encoder.encode(self)


_job_encoder = msgspec.json.Encoder()
_job_decoder = msgspec.json.Decoder(Job)
_frame_encoder = msgspec.msgpack.Encoder()
_frame_decoder = msgspec.msgpack.Decoder(Frame)
_cancel_decoder = msgspec.msgpack.Decoder(Cancel)


def decode_job(text: str) -> Job:
    """Raises msgspec.DecodeError."""
    return _job_decoder.decode(text)


def decode_frame(data: bytes) -> Frame:
    """Raises msgspec.DecodeError."""
    return _frame_decoder.decode(data)


def decode_cancel(data: bytes) -> Cancel:
    """Raises msgspec.DecodeError."""
    return _cancel_decoder.decode(data)
