"""The doors of /v1/files and /v1/batches: OpenAI's way to the same jobs."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec
from asgiref.sync import sync_to_async
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from accounts.doors import Door
from common.errors import InvalidInput, NotFound
from inference.openai_door.openapi import OpenAISchema
from jobs import files, services
from jobs.api import in_own_thread, lines_response
from jobs.models import File, FileChunk, Job
from jobs.openai_door.bodies import ENDPOINTS, batch_body, file_body, list_body, parse_batch, parse_lifetime
from jobs.openai_door.openapi import (
    describe_batch,
    describe_batches,
    describe_cancel_batch,
    describe_content,
    describe_create_batch,
    describe_delete_file,
    describe_file,
    describe_files,
    describe_upload,
)
from jobs.openai_door.serializers import BatchesQuery, FilesQuery
from jobs.output_files import states_in
from jobs.selectors import find_files, find_jobs, get_file, newer_first
from jobs.uploads import form_of, parts_of

_encode = msgspec.json.Encoder().encode
_FORM_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


class OpenAIDoor(Door):
    limit_group = "jobs"
    permission = {"GET": "read", "POST": "write", "DELETE": "write"}  # the base class says what it is
    schema = OpenAISchema()


class Files(OpenAIDoor):
    @describe_files
    async def get(self, request: Request) -> HttpResponse:
        """Your files, the newest first."""
        query = FilesQuery.parse(request.query_params.dict())
        found, has_more = await sync_to_async(self._page)(query)
        return _json(list_body([file_body(file) for file in found], has_more=has_more))

    @describe_upload
    async def post(self, request: Request) -> HttpResponse:
        """Upload a file of requests, one a line, for a batch."""
        return _json(file_body(await in_own_thread(partial(self._stored, request._request))))

    def _stored(self, sent: HttpRequest) -> File:
        fields, file = form_of(sent)
        for name in fields:
            if name not in _FORM_FIELDS:
                raise InvalidInput("This field is not known.", field=name[:100])
        if fields.get("purpose") != File.Purpose.BATCH:
            raise InvalidInput("The only purpose that files have here is batch.", field="purpose")
        return files.store(
            caller=self.caller,
            parts=parts_of(file),
            name=file.name or "",
            file_format=File.Format.JSONL,
            expires_after=parse_lifetime(fields),
        )

    def _page(self, query: dict[str, Any]) -> tuple[list[File], bool]:
        found: QuerySet[File] = find_files(self.caller, purpose=query.get("purpose", ""))
        is_ascending = query["order"] == "asc"
        if "after" in query:
            last = get_file(self.caller, query["after"])
            side = "gt" if is_ascending else "lt"
            beyond = Q(**{f"created_at__{side}": last.created_at})
            found = found.filter(beyond | Q(created_at=last.created_at, **{f"pk__{side}": last.pk}))
        sign = "" if is_ascending else "-"
        rows = list(found.order_by(f"{sign}created_at", f"{sign}pk")[: query["limit"] + 1])
        return rows[: query["limit"]], len(rows) > query["limit"]


class FileDetail(OpenAIDoor):
    @describe_file
    async def get(self, request: Request, file_id: str) -> HttpResponse:
        """One file, without its content."""
        return _json(file_body(await sync_to_async(get_file)(self.caller, file_id)))

    @describe_delete_file
    async def delete(self, request: Request, file_id: str) -> HttpResponse:
        """Delete a file. Jobs that have read it go on."""
        file = await sync_to_async(get_file)(self.caller, file_id)
        await in_own_thread(partial(files.delete, file))
        return _json({"id": file_id, "object": "file", "deleted": True})


class FileContent(OpenAIDoor):
    @describe_content
    async def get(self, request: Request, file_id: str) -> HttpResponseBase:
        """A file's content: what was uploaded, or a batch's answers."""
        file = await sync_to_async(get_file)(self.caller, file_id)
        if file.job is not None:
            return lines_response(file.job, states_in(file), name=file.name)
        return StreamingHttpResponse(_chunks(file), content_type="application/octet-stream")


class Batches(OpenAIDoor):
    @describe_batches
    async def get(self, request: Request) -> HttpResponse:
        """Your batches, the newest first."""
        query = BatchesQuery.parse(request.query_params.dict())
        return _json(await sync_to_async(self._page)(query))

    @describe_create_batch
    async def post(self, request: Request) -> HttpResponse:
        """Make a batch of an uploaded file's requests."""
        body = parse_batch(request.data)
        lifetime = body.output_expires_after

        def create() -> dict[str, Any]:
            job = services.submit(
                caller=self.caller,
                kind=ENDPOINTS[body.endpoint],
                model="",
                input_file=services.input_file_of(self.caller, body.input_file_id),
                is_openai_batch=True,
                metadata=body.metadata,
                keep_seconds=lifetime.seconds if lifetime is not None else None,
            )
            return batch_body(job)

        return _json(await sync_to_async(create)())

    def _page(self, query: dict[str, Any]) -> dict[str, Any]:
        batches = find_jobs(self.caller).filter(is_openai_batch=True).prefetch_related("output_files")
        after = _batch(self, query["after"]) if "after" in query else None
        found = newer_first(batches, after=after, limit=query["limit"] + 1)
        page = [batch_body(job) for job in found[: query["limit"]]]
        return list_body(page, has_more=len(found) > query["limit"])


class BatchDetail(OpenAIDoor):
    @describe_batch
    async def get(self, request: Request, batch_id: str) -> HttpResponse:
        """How a batch stands."""
        return _json(await sync_to_async(lambda: batch_body(_batch(self, batch_id)))())


class CancelBatch(OpenAIDoor):
    @describe_cancel_batch
    async def post(self, request: Request, batch_id: str) -> HttpResponse:
        """Cancel a batch. What has ended keeps its answers."""
        return _json(await sync_to_async(lambda: batch_body(services.cancel(_batch(self, batch_id))))())


def _batch(door: OpenAIDoor, batch_id: str) -> Job:
    job = find_jobs(door.caller).filter(is_openai_batch=True, pk=batch_id).first()
    if job is None:
        raise NotFound("There is no such batch.")
    return job


async def _chunks(file: File) -> AsyncIterator[bytes]:
    number = 0
    while (chunk := await FileChunk.objects.filter(file=file, number=number).afirst()) is not None:
        yield bytes(chunk.data)
        number += 1


def _json(body: dict[str, Any]) -> HttpResponse:
    return HttpResponse(_encode(body), content_type="application/json")
