"""OpenAI's stock client, against a running server."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai.types import Batch

from tests.jobs.conftest import PATIENCE, JobServer

CHAT = "/v1/chat/completions"


@pytest.fixture
def client(jobs: JobServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{jobs.url}/v1", api_key=jobs.running.api_key) as client:
        yield client


def line(custom_id: str, content: str = "one two", url: str = CHAT, **body: object) -> str:
    body = {"model": "default", "messages": [{"role": "user", "content": content}], "max_tokens": 2, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def upload(client: openai.OpenAI, *lines: str) -> str:
    return client.files.create(file=("prompts.jsonl", "\n".join(lines).encode()), purpose="batch").id


def ended(client: openai.OpenAI, batch: Batch) -> Batch:
    deadline = time.monotonic() + PATIENCE
    while batch.status in ("validating", "in_progress", "finalizing"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def test_a_batch_goes_the_whole_way(client: openai.OpenAI) -> None:
    file_id = upload(client, *(line(f"request-{number}", f"prompt {number}") for number in range(50)))
    batch = client.batches.create(
        input_file_id=file_id, endpoint=CHAT, completion_window="24h", metadata={"purpose": "a test"}
    )
    assert (batch.object, batch.endpoint, batch.input_file_id) == ("batch", CHAT, file_id)

    batch = ended(client, batch)

    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed) == (50, 50)
    assert batch.metadata == {"purpose": "a test"}
    assert batch.completed_at is not None
    assert batch.error_file_id is None
    assert batch.output_file_id is not None
    about = client.files.retrieve(batch.output_file_id)
    text = client.files.content(batch.output_file_id).text
    assert (about.purpose, about.bytes) == ("batch_output", len(text.encode()))
    answers = [json.loads(answer) for answer in text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == [f"request-{number}" for number in range(50)]
    for number, answer in enumerate(answers):
        assert (answer["error"], answer["response"]["status_code"]) == (None, 200)
        body = answer["response"]["body"]
        assert (body["object"], body["choices"][0]["message"]["content"]) == ("chat.completion", f"prompt {number}")


def test_what_is_wrong_lies_in_the_error_file(client: openai.OpenAI) -> None:
    file_id = upload(
        client,
        line("good"),
        line("no model", model="nowhere"),
        line("no tokens", max_tokens=0),
        line("other endpoint", url="/v1/completions"),
        "no json",
        line("good"),
    )
    batch = ended(client, client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h"))

    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 5)
    assert batch.error_file_id is not None
    text = client.files.content(batch.error_file_id).text
    assert client.files.retrieve(batch.error_file_id).bytes == len(text.encode())
    errors = [json.loads(answer) for answer in text.splitlines()]
    assert [error["custom_id"] for error in errors] == ["no model", "no tokens", "other endpoint", None, "good"]
    assert errors[0]["response"]["status_code"] == 404
    assert errors[0]["response"]["body"]["error"]["code"] == "model_not_found"
    assert errors[1]["response"]["body"]["error"]["param"] == "max_tokens"
    for error in errors[2:]:
        assert (error["response"], error["error"]["code"]) == (None, "invalid_request")
    assert "Line 5" in errors[3]["error"]["message"]


def test_a_batch_of_completions(client: openai.OpenAI) -> None:
    body = {"model": "default", "prompt": "one two three", "max_tokens": 3}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    batch = client.batches.create(
        input_file_id=upload(client, json.dumps(request)), endpoint="/v1/completions", completion_window="24h"
    )

    batch = ended(client, batch)
    assert batch.output_file_id is not None
    answer = json.loads(client.files.content(batch.output_file_id).text)
    assert answer["response"]["body"]["choices"][0]["text"] == "one two three"


def test_a_batch_is_cancelled(client: openai.OpenAI, paced_jobs: JobServer) -> None:
    slow = openai.OpenAI(base_url=f"{paced_jobs.url}/v1", api_key=paced_jobs.running.api_key)
    file_id = upload(slow, *(line(f"r{number}", max_tokens=5000) for number in range(60)))
    batch = slow.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h")
    paced_jobs.wait(batch.id, lambda job: job["state"] == "running")

    cancelled = slow.batches.cancel(batch.id)

    assert cancelled.status == "cancelled"
    assert cancelled.error_file_id is not None
    errors = [json.loads(one) for one in slow.files.content(cancelled.error_file_id).text.splitlines()]
    assert {error["error"]["code"] for error in errors} == {"batch_cancelled"}
    file_id = upload(client, line("a"))
    finished = ended(client, client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h"))
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(finished.id)
    slow.close()


def test_files_are_listed_read_and_deleted(client: openai.OpenAI) -> None:
    content = line("a") + "\n" + "x" * 700_000
    file = client.files.create(
        file=("näme.jsonl", content.encode()),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 7200},
    )
    other = upload(client, line("b"))

    assert (file.bytes, file.filename) == (len(content), "näme.jsonl")
    assert file.expires_at is not None
    assert abs(file.expires_at - file.created_at - 7200) <= 1
    assert client.files.content(file.id).content == content.encode()
    assert [one.id for one in client.files.list(limit=2)][:2] == [other, file.id]
    assert client.files.list(limit=1, purpose="batch").data[0].id == other
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


def test_batches_are_listed_page_by_page(client: openai.OpenAI) -> None:
    file_id = upload(client, line("a"))
    made = [client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h").id for _ in range(3)]

    page = client.batches.list(limit=2)
    assert [batch.id for batch in page.data] == made[:0:-1]
    assert page.get_next_page().data[0].id == made[0]


def test_what_is_not_supported_says_so(client: openai.OpenAI, jobs: JobServer) -> None:
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match="endpoint"):
        client.batches.create(input_file_id="file-x", endpoint="/v1/responses", completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.files.create(file=("a.jsonl", b""), purpose="batch")
    answer = httpx.post(f"{jobs.url}/v1/files", json={}, headers=jobs.headers)
    assert answer.status_code == 415
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the most memory a process had is told by Linux")
def test_no_process_holds_a_large_upload_in_memory(client: openai.OpenAI, jobs: JobServer) -> None:
    content = (line("a", "x" * 2000) + "\n").encode() * 10_000
    before = most_memory(jobs)
    file = client.files.create(file=("large.jsonl", content), purpose="batch")

    assert file.bytes == len(content)
    assert most_memory(jobs) - before < len(content) / 2
    client.files.delete(file.id)


def most_memory(server: JobServer) -> int:
    """The most memory that the web process ever had, in bytes."""
    status = Path(f"/proc/{server.running.pid_of('web')}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]
