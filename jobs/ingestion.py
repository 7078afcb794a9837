"""Makes items of the lines of a job's file, some hundred in a transaction, so that it can go on wherever it stopped."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from common.errors import ApiError, InvalidInput
from jobs import news, results
from jobs.files import content
from jobs.input_lines import Line, csv_lines, json_lines
from jobs.models import File, Job, JobItem
from jobs.services import MAX_CUSTOM_ID_LENGTH, end

_LINES_AT_ONCE = 250
_ENDPOINTS = {
    Job.Kind.CHAT_COMPLETIONS: "/v1/chat/completions",
    Job.Kind.COMPLETIONS: "/v1/completions",
    Job.Kind.EMBEDDINGS: "/v1/embeddings",
}
_BATCH_FIELDS = frozenset({"custom_id", "method", "url", "body"})


class Ingestion:
    """Reads one job's file. `step` makes the next items."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._seen: set[str] = set()
        self._lines: Iterator[Line] | None = None

    def step(self) -> bool:
        """Whether there is more to be read."""
        job = Job.objects.select_related("input_file").get(pk=self._job_id)
        if job.state != Job.State.VALIDATING:
            return False
        try:
            return self._step(job)
        except InvalidInput as error:
            end(job, Job.State.FAILED, error=results.error_body(error))
            return False

    def _step(self, job: Job) -> bool:
        if self._lines is None:
            self._lines = self._opened(job)
        lines = list(islice(self._lines, _LINES_AT_ONCE))
        items = [self._item(job, job.read_lines + at, line) for at, line in enumerate(lines)]
        count = job.read_lines + len(items)
        if count > settings.MAX_JOB_ITEMS:
            details = {"max_items": settings.MAX_JOB_ITEMS}
            raise InvalidInput("The file has too many lines.", field="input_file_id", details=details)
        is_last = len(lines) < _LINES_AT_ONCE
        if is_last and count == 0:
            raise InvalidInput("The file has no lines.", field="input_file_id")
        failed = [item for item in items if item.state == JobItem.State.FAILED]
        with transaction.atomic():
            locked = Job.objects.select_for_update().get(pk=job.pk)
            if locked.state != Job.State.VALIDATING or locked.read_lines != job.read_lines:
                self._lines = None  # it was cancelled, or another dispatcher has taken over
                return locked.state == Job.State.VALIDATING
            JobItem.objects.bulk_create(items)
            locked.read_lines = locked.total = count
            locked.failed += len(failed)
            if not locked.model and items:
                locked.model = _model_of(items)
            locked.error_bytes += sum(len(item.result.encode()) + 1 for item in failed)
            if is_last:
                locked.state = Job.State.QUEUED
                transaction.on_commit(lambda: news.tell(locked))
            locked.save(update_fields=["read_lines", "total", "failed", "error_bytes", "state", "model"])
        return not is_last

    def _opened(self, job: Job) -> Iterator[Line]:
        """The lines that are no items yet."""
        self._seen = set(JobItem.objects.filter(job=job).values_list("custom_id", flat=True))
        if job.input_file is None:
            raise InvalidInput("The file was deleted before it had been read.", field="input_file_id")
        read = csv_lines if job.input_file.format == File.Format.CSV else json_lines
        return islice(read(content(job.input_file)), job.read_lines, None)

    def _item(self, job: Job, index: int, line: Line) -> JobItem:
        name, default = ("custom_id", "") if job.is_openai_batch else ("id", str(index))
        custom_id = _custom_id(line, name, default)
        try:
            if isinstance(line.content, InvalidInput):
                raise line.content
            body = _batch_body(job, line.content) if job.is_openai_batch else line.content
            if not 1 <= len(custom_id) <= MAX_CUSTOM_ID_LENGTH:
                message = f"{name} must be a string of 1 to {MAX_CUSTOM_ID_LENGTH} characters."
                raise InvalidInput(message, field=name)
            if custom_id in self._seen:
                raise InvalidInput("Another line before has the same id.", details={"id": custom_id})
        except ApiError as error:
            return self._failed(job, index, custom_id, line, error)
        self._seen.add(custom_id)
        return JobItem(job=job, index=index, custom_id=custom_id, body=body)

    def _failed(self, job: Job, index: int, custom_id: str, line: Line, error: ApiError) -> JobItem:
        kept_id = custom_id[:MAX_CUSTOM_ID_LENGTH]
        result = results.unreadable(
            is_openai=job.is_openai_batch,
            job_id=job.pk,
            index=index,
            custom_id=kept_id,
            line=line.number,
            error=error,
        )
        state = JobItem.State.FAILED
        return JobItem(job=job, index=index, custom_id=kept_id, state=state, result=result, ended_at=timezone.now())


def _custom_id(line: Line, name: str, default: str) -> str:
    """The id that a line gives itself; "" for one that is none."""
    if isinstance(line.content, InvalidInput):
        return default
    found = line.content.get(name, default)
    return found if isinstance(found, str) else ""


def _model_of(items: list[JobItem]) -> str:
    """The model that the first request names: OpenAI's batches are of one."""
    named = next((item.body["model"] for item in items if item.body and isinstance(item.body.get("model"), str)), "")
    return str(named)[:200]


def _batch_body(job: Job, content: dict[str, Any]) -> dict[str, Any]:
    """The request of a line of OpenAI's batch input."""
    for name in content:
        if name not in _BATCH_FIELDS:
            raise InvalidInput("This field is not known.", field=name[:100])
    if content.get("method") != "POST":
        raise InvalidInput("The method must be POST.", field="method")
    endpoint = _ENDPOINTS[Job.Kind(job.kind)]
    if content.get("url") != endpoint:
        raise InvalidInput(f"The url must be the batch's endpoint, {endpoint}.", field="url")
    body = content.get("body")
    if not isinstance(body, dict):
        raise InvalidInput("The body must be an object.", field="body")
    return body
