"""The doors of jobs: section 3."""

import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from channels.db import DatabaseSyncToAsync
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.doors import Door
from common.envelope import success
from common.errors import InvalidInput, UnsupportedMediaType
from jobs import files, services
from jobs.bodies import JobOptions, parameters, parse_body, parse_query
from jobs.models import File, Job, JobItem
from jobs.openapi import (
    describe_cancel,
    describe_events,
    describe_get,
    describe_list,
    describe_results,
    describe_secret,
    describe_submit,
)
from jobs.presentation import job_body
from jobs.progress_stream import progress_events
from jobs.selectors import find_jobs, get_job, newer_first, result_lines
from jobs.serializers import ForgetQuery, JobQuery, JobsQuery, ResultsQuery
from jobs.uploads import body_parts, media_type
from jobs.webhook_signing import secret_of
from models_mgmt.selectors import aresolve_model

R = TypeVar("R")

ENDED = (JobItem.State.COMPLETED, JobItem.State.FAILED, JobItem.State.CANCELLED)
LINES_AT_ONCE = 500
_FORMATS = {
    "application/x-ndjson": File.Format.JSONL,
    "application/jsonl": File.Format.JSONL,
    "application/jsonlines": File.Format.JSONL,
    "text/csv": File.Format.CSV,
}


async def in_own_thread(work: Callable[[], R]) -> R:
    """What takes long, above all to take a large file, holds up none of the threads that requests share."""
    result: R = await DatabaseSyncToAsync(work, thread_sensitive=False)()
    return result


class JobDoor(Door):
    limit_group = "jobs"
    permission = {"GET": "read", "POST": "write", "DELETE": "write"}  # the base class says what it is

    async def _job(self, job_id: str) -> Job:
        return await sync_to_async(get_job)(self.caller, job_id)


class Jobs(JobDoor):
    @describe_list
    async def get(self, request: Request) -> Response:
        """Your jobs, the newest first; for administrators everybody's."""
        query = JobsQuery.parse(request.query_params.dict())
        found, following = await sync_to_async(self._page)(query)
        return Response(success(jobs=[job_body(job) for job in found], next_cursor=following))

    @describe_submit
    async def post(self, request: Request) -> Response:
        """Submit many prompts at once, one a line: JSON Lines, CSV, or a file that was uploaded before.

        A line has the fields of an input of `batch_infer`. The job goes on by itself; the answer tells its id.
        """
        sent = request._request
        if media_type(sent) == "application/json":
            body = parse_body(request.data)
            await aresolve_model(body.model)
            file_id, metadata = body.input_file_id, body.metadata
            find = partial(services.input_file_of, self.caller, file_id)
            job = await in_own_thread(lambda: self._submitted(find(), body, metadata))
        else:
            if (file_format := _FORMATS.get(media_type(sent))) is None:
                raise UnsupportedMediaType("Send application/x-ndjson, text/csv or application/json.")
            options = parse_query(request.query_params.dict())
            await aresolve_model(options.model)
            job = await in_own_thread(lambda: self._uploaded(sent, file_format, options))
        self.headers["Location"] = f"/api/v1/jobs/{job.pk}"
        return Response(success(job=job_body(job)), status=202)

    def _page(self, query: dict[str, Any]) -> tuple[list[Job], str | None]:
        jobs = find_jobs(self.caller, state=query.get("state", ""), kind=query.get("kind", ""))
        after = None
        if "cursor" in query and (after := find_jobs(self.caller).filter(pk=query["cursor"]).first()) is None:
            raise InvalidInput("This is no cursor of ours.", field="cursor")
        found = newer_first(jobs, after=after, limit=query["limit"] + 1)
        has_more = len(found) > query["limit"]
        found = found[: query["limit"]]
        return found, found[-1].pk if has_more else None

    def _uploaded(self, sent: HttpRequest, file_format: str, options: JobOptions) -> Job:
        file = files.store(caller=self.caller, parts=body_parts(sent), name="", file_format=file_format)
        try:
            return self._submitted(file, options, {})
        except BaseException:
            file.delete()
            raise

    def _submitted(self, file: File, options: JobOptions, metadata: dict[str, str]) -> Job:
        return services.submit(
            caller=self.caller,
            kind=Job.Kind.BATCH,
            model=options.model,
            defaults=parameters(options),
            input_file=file,
            name=options.name,
            metadata=metadata,
            webhook_url=options.webhook_url,
        )


class JobDetail(JobDoor):
    @describe_get
    async def get(self, request: Request, job_id: str) -> Response:
        """How a job stands, and the results of those of its items that have ended, in order."""
        query = JobQuery.parse(request.query_params.dict())
        job = await self._job(job_id)
        lines = await sync_to_async(result_lines)(job, after=query["after"], limit=query["limit"], states=ENDED)
        is_all = len(lines) < query["limit"] or not lines
        return Response(
            success(
                job=job_body(job),
                results=[json.loads(line) for _, line in lines],
                next_after=None if is_all else lines[-1][0],
            )
        )

    @describe_cancel
    async def delete(self, request: Request, job_id: str) -> Response:
        """Cancel a job: what runs of it ends within a second, what has ended keeps its results."""
        forget = ForgetQuery.parse(request.query_params.dict())["forget"]
        job = await self._job(job_id)
        body = job_body(await sync_to_async(services.cancel)(job)) if not forget else None
        if forget:
            await in_own_thread(partial(services.forget, job))
            body = job_body(job)
        return Response(success(job=body))


class JobResults(JobDoor):
    @describe_results
    async def get(self, request: Request, job_id: str) -> HttpResponseBase:
        """The results as JSON Lines, in the order of the items; while the job runs, those that there are."""
        query = ResultsQuery.parse(request.query_params.dict())
        job = await self._job(job_id)
        states = (JobItem.State(query["state"]),) if "state" in query else ENDED
        return lines_response(job, states, name=f"{job.pk}.jsonl")


class JobEvents(JobDoor):
    @describe_events
    async def get(self, request: Request, job_id: str) -> StreamingHttpResponse:
        """Watch a job's progress."""
        job = await self._job(job_id)
        return StreamingHttpResponse(
            progress_events(job.pk),
            content_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )


class WebhookSecret(JobDoor):
    @describe_secret
    async def get(self, request: Request) -> Response:
        """The secret that your webhooks are signed with."""
        return Response(success(secret=secret_of(files.owner_of(self.caller))))


def lines_response(job: Job, states: tuple[JobItem.State, ...], *, name: str) -> StreamingHttpResponse:
    """A job's lines as a file, read as they are taken."""
    return StreamingHttpResponse(
        _lines(job, states),
        content_type="application/x-ndjson",
        headers={"Content-Disposition": f'attachment; filename="{name}"', "X-Accel-Buffering": "no"},
    )


async def _lines(job: Job, states: tuple[JobItem.State, ...]) -> AsyncIterator[bytes]:
    after = -1
    while found := await sync_to_async(result_lines)(job, after=after, limit=LINES_AT_ONCE, states=states):
        yield b"".join(line for _, line in found)
        after = found[-1][0]
