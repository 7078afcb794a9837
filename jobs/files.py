"""Files: uploads go into the database chunk by chunk, so that no process ever holds one whole, whatever its size."""

from collections.abc import Iterable, Iterator
from datetime import timedelta

from django.conf import settings
from django.db.models import Sum
from django.utils import timezone

from accounts.caller import Caller
from common.errors import AuthenticationFailed, Conflict, InvalidInput, PayloadTooLarge
from jobs.ids import new_id
from jobs.models import File, FileChunk, Job

CHUNK_BYTES = 256 * 1024
MAX_NAME_LENGTH = 255


def store(
    *,
    caller: Caller,
    parts: Iterable[bytes],
    name: str,
    file_format: str,
    expires_after: int | None = None,
) -> File:
    """Keep an upload; `parts` are its bytes in order. `expires_after`: seconds until it may be dropped.

    Raises PayloadTooLarge, InvalidInput for an empty one, Conflict where the owner has stored too much already.
    """
    owner_id = owner_of(caller)
    room = settings.MAX_STORED_BYTES - stored_bytes(owner_id)
    now = timezone.now()
    lifetime = timedelta(days=settings.KEEP_JOBS_DAYS) if expires_after is None else timedelta(seconds=expires_after)
    file = File.objects.create(
        id=new_id("file-"),
        owner_id=owner_id,
        name=name[:MAX_NAME_LENGTH] or f"input.{file_format}",
        format=file_format,
        expires_at=now + lifetime if lifetime else None,
    )
    try:
        for number, chunk in enumerate(_chunks(parts)):
            file.size += len(chunk)
            if file.size > settings.MAX_UPLOAD_BYTES:
                raise PayloadTooLarge("The file is too large.", details={"max_bytes": settings.MAX_UPLOAD_BYTES})
            if file.size > room:
                details = {"max_stored_bytes": settings.MAX_STORED_BYTES}
                raise Conflict("You have stored too much; delete files that you no longer need.", details=details)
            FileChunk.objects.create(file=file, number=number, data=chunk)
        if file.size == 0:
            raise InvalidInput("The file is empty.", field="file")
    except BaseException:
        file.delete()
        raise
    file.is_complete = True
    file.save(update_fields=["size", "is_complete"])
    return file


def content(file: File) -> Iterator[bytes]:
    """The bytes of an uploaded file, a chunk at a time."""
    last = -1
    while (chunk := FileChunk.objects.filter(file=file, number__gt=last).order_by("number").first()) is not None:
        last = chunk.number
        yield bytes(chunk.data)


def owner_of(caller: Caller) -> int:
    """Whose the files and jobs of a caller are. Raises AuthenticationFailed for callers without credentials, whom an
    operator may have let in: what outlives a request belongs to somebody."""
    if caller.user_id is None:
        raise AuthenticationFailed("Files and jobs belong to a user; send a key or a token.")
    return caller.user_id


def stored_bytes(owner_id: int) -> int:
    """What a user's uploads take. Answers are not counted: their jobs' items are."""
    return File.objects.filter(owner_id=owner_id, job=None).aggregate(total=Sum("size"))["total"] or 0


def delete(file: File) -> None:
    """Raises Conflict while a job reads it."""
    if Job.objects.filter(input_file=file, state=Job.State.VALIDATING).exists():
        raise Conflict("A job reads this file just now; wait, or cancel the job.")
    file.delete()


def _chunks(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in chunks of CHUNK_BYTES, the last one maybe shorter."""
    held = bytearray()
    for part in parts:
        held += part
        while len(held) >= CHUNK_BYTES:
            yield bytes(held[:CHUNK_BYTES])
            del held[:CHUNK_BYTES]
    if held:
        yield bytes(held)
