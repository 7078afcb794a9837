"""A job's progress as Server-Sent Events, read from the database: whoever connects anew sees how it stands now."""

import asyncio
import time
from collections.abc import AsyncIterator

from asgiref.sync import sync_to_async
from django.conf import settings

from inference.sse import KEEP_ALIVE, encoded
from jobs.models import Job
from jobs.presentation import job_body

LOOK_SECONDS = 0.3


async def progress_events(job_id: str) -> AsyncIterator[bytes]:
    """`event: progress` whenever something has changed, and `event: end` with the job as it has ended."""
    last = b""
    told_at = time.monotonic()
    while True:
        job = await sync_to_async(Job.objects.filter(pk=job_id).first)()
        if job is None:  # it was deleted meanwhile
            return
        data = encoded({"job": job_body(job)})
        if not job.is_unfinished:
            yield b"event: end\ndata: %b\n\n" % data
            return
        if data != last:
            yield b"event: progress\ndata: %b\n\n" % data
            last, told_at = data, time.monotonic()
        elif time.monotonic() - told_at >= settings.SSE_KEEP_ALIVE_SECONDS:
            yield KEEP_ALIVE
            told_at = time.monotonic()
        await asyncio.sleep(LOOK_SECONDS)
