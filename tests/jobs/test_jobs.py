"""Jobs as their owners use them, against a running server."""

import csv
import io
import json
import time
from typing import Any

import httpx

from tests.jobs.conftest import JobServer

TWO = '{"id": "a", "text": "one two", "max_tokens": 2}\n{"id": "b", "text": "three four", "max_tokens": 2}\n'


def test_a_request_is_answered_later(jobs: JobServer) -> None:
    answer = jobs.client.post("/infer", json={"text": "one two three", "max_tokens": 3, "async": True})

    assert answer.status_code == 202
    job = answer.json()["job"]
    assert answer.headers["Location"] == f"/api/v1/jobs/{job['id']}"
    assert (job["kind"], job["progress"]["total"]) == ("infer", 1)
    jobs.wait(job["id"])
    body = jobs.ask("GET", f"/jobs/{job['id']}")
    assert body["job"]["state"] == "completed"
    (result,) = body["results"]
    assert (result["generated_text"], result["tokens_generated"]) == ("one two three", 3)


def test_the_header_of_rfc_7240_defers_a_batch(jobs: JobServer) -> None:
    body = {"inputs": [{"id": "x", "text": "one"}, {"text": ""}, {"text": "three"}], "max_tokens": 1}
    answer = jobs.client.post("/batch_infer", json=body, headers={"Prefer": "respond-async, wait=5"})

    assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "respond-async")
    job = jobs.wait(answer.json()["job"]["id"])
    assert (job["progress"]["completed"], job["progress"]["failed"]) == (2, 1)
    first, second, third = jobs.ask("GET", f"/jobs/{job['id']}")["results"]
    assert (first["id"], first["generated_text"]) == ("x", "one")
    assert (second["id"], second["error"]["details"]["field"]) == ("1", "text")
    assert third["generated_text"] == "three"


def test_what_can_not_be_deferred_says_so(jobs: JobServer) -> None:
    for path, body, field in (
        ("/stream_infer", {"text": "a", "async": True}, "async"),
        ("/infer", {"text": "a", "async": True, "stream": True}, "stream"),
        ("/infer", {"text": "a", "webhook_url": "https://example.com/"}, "webhook_url"),
        ("/infer", {"text": "a", "async": True, "webhook_url": "http://127.0.0.1/"}, "webhook_url"),
        ("/infer", {"text": "a", "async": True, "webhook_url": "ftp://example.com/"}, "webhook_url"),
    ):
        answer = jobs.client.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (400, field)
    assert jobs.client.post("/infer", json={"text": "a", "model": "nowhere", "async": True}).status_code == 404


def test_lines_of_json_go_in_and_come_out(jobs: JobServer) -> None:
    lines = [json.dumps({"id": f"line-{number}", "text": f"the prompt {number}"}) for number in range(600)]
    job = jobs.submit("\n".join(lines), max_tokens=12, name="six hundred", model="echo")

    ended = jobs.wait(job["id"])
    assert (ended["state"], ended["name"], ended["progress"]["completed"]) == ("completed", "six hundred", 600)
    results = [json.loads(line) for line in jobs.ask("GET", f"/jobs/{job['id']}/results").splitlines()]
    assert [result["id"] for result in results] == [f"line-{number}" for number in range(600)]
    assert all(result["generated_text"].startswith(f"the prompt {number}the") for number, result in enumerate(results))
    assert ended["usage"]["tokens_generated"] == 12 * 600
    page = jobs.ask("GET", f"/jobs/{job['id']}", params={"limit": 10, "after": 99})
    assert (page["results"][0]["id"], page["next_after"]) == ("line-100", 109)


def test_a_bad_line_fails_alone(jobs: JobServer) -> None:
    lines = ["no json", '{"text": "good"}', '{"text": 5}', '{"id": "1", "text": "twice"}', '{"text": "x", "nope": 1}']
    job = jobs.wait(jobs.submit("\n\n".join(lines), max_tokens=1)["id"])

    assert (job["state"], job["progress"]["completed"], job["progress"]["failed"]) == ("completed", 1, 4)
    results = [json.loads(line) for line in jobs.ask("GET", f"/jobs/{job['id']}/results").splitlines()]
    assert results[1]["generated_text"] == "good"
    errors = [results[index]["error"] for index in (0, 2, 3, 4)]
    assert {error["code"] for error in errors} == {"INVALID_INPUT"}
    assert errors[0]["details"]["line"] == 1
    assert errors[1]["details"]["field"] == "text"
    assert errors[2]["details"]["id"] == "1"
    assert errors[3]["details"]["field"] == "nope"
    failed = jobs.ask("GET", f"/jobs/{job['id']}/results", params={"state": "failed"}).splitlines()
    assert len(failed) == 4


def test_a_table_goes_in(jobs: JobServer) -> None:
    table = io.StringIO()
    csv.writer(table).writerows([["id", "text", "max_tokens"], ["q", 'a "quoted",\nline', "2"], ["r", "b", ""]])
    answer = jobs.client.post(
        "/jobs", content=table.getvalue().encode(), headers={"Content-Type": "text/csv"}, params={"max_tokens": 1}
    )

    job = jobs.wait(answer.json()["job"]["id"])
    assert job["progress"]["completed"] == 2
    first, second = jobs.ask("GET", f"/jobs/{job['id']}")["results"]
    assert (first["id"], first["tokens_generated"]) == ("q", 2)
    assert (second["id"], second["tokens_generated"]) == ("r", 1)


def test_its_progress_is_told_until_its_end(jobs: JobServer) -> None:
    job = jobs.submit(TWO * 1)
    with jobs.client.stream("GET", f"/jobs/{job['id']}/events") as answer:
        text = answer.read().decode()

    assert answer.headers["Content-Type"] == "text/event-stream"
    event, data = text.strip().split("\n\n")[-1].splitlines()
    assert event == "event: end"
    assert json.loads(data.removeprefix("data: "))["job"]["progress"]["fraction"] == 1.0


def test_a_file_without_a_good_line_fails(jobs: JobServer) -> None:
    job = jobs.wait(jobs.submit("{}\n")["id"])
    assert (job["state"], job["progress"]["failed"]) == ("failed", 1)
    assert jobs.client.post("/jobs", content=b"", headers={"Content-Type": "application/x-ndjson"}).status_code == 400
    assert jobs.client.post("/jobs", content=b"a", headers={"Content-Type": "text/plain"}).status_code == 415
    assert jobs.wait(jobs.submit("\n\n")["id"])["error"]["code"] == "INVALID_INPUT"


def test_a_cancelled_job_stops_within_a_second(paced_jobs: JobServer) -> None:
    lines = "\n".join(json.dumps({"text": "one two three", "max_tokens": 5000}) for _ in range(200))
    job = paced_jobs.submit(lines)
    paced_jobs.wait(job["id"], lambda job: job["state"] == "running")
    wait_for_running(paced_jobs, lambda count: count > 0)

    began = time.monotonic()
    cancelled = paced_jobs.ask("DELETE", f"/jobs/{job['id']}")["job"]
    wait_for_running(paced_jobs, lambda count: count == 0)
    took = time.monotonic() - began

    assert (cancelled["state"], cancelled["progress"]["cancelled"]) == ("cancelled", 200)
    assert took < 4  # one second, and what it takes to hear of it from heartbeats on a busy machine
    assert paced_jobs.ask("DELETE", f"/jobs/{job['id']}")["job"]["state"] == "cancelled"
    results = paced_jobs.ask("GET", f"/jobs/{job['id']}/results").splitlines()
    assert {json.loads(line)["error"]["code"] for line in results} == {"JOB_CANCELLED"}
    paced_jobs.ask("DELETE", f"/jobs/{job['id']}", params={"forget": True})
    assert paced_jobs.client.get(f"/jobs/{job['id']}").status_code == 404


def test_requests_go_ahead_of_a_running_job(paced_jobs: JobServer) -> None:
    """The engine has all its places taken by the job; a request has one at once, and all its steps."""
    lines = "\n".join(json.dumps({"text": "one two three", "max_tokens": 5000}) for _ in range(100))
    job = paced_jobs.submit(lines)
    wait_for_running(paced_jobs, lambda count: count >= 32)

    began = time.monotonic()
    answer = paced_jobs.client.post("/infer", json={"text": "one two", "max_tokens": 10})
    took = time.monotonic() - began

    assert answer.status_code == 200
    assert took < 5  # the job's items take 100 seconds each
    paced_jobs.ask("DELETE", f"/jobs/{job['id']}")


def test_two_owners_share_and_each_sees_their_own(jobs: JobServer) -> None:
    made = jobs.ask("POST", "/users", json={"username": "grace", "password": "a-long-password-1", "role": "operator"})
    assert made["user"]["id"] == "grace"
    login = jobs.ask("POST", "/auth/login", json={"username": "grace", "password": "a-long-password-1"})
    other = httpx.Client(base_url=f"{jobs.url}/api/v1", headers={"Authorization": f"Bearer {login['token']}"})
    mine = jobs.submit(TWO)
    headers = {"Content-Type": "application/x-ndjson"}
    hers = other.post("/jobs", content=TWO, headers=headers).json()["job"]

    assert other.get(f"/jobs/{mine['id']}").status_code == 404
    assert other.delete(f"/jobs/{mine['id']}").status_code == 404
    assert other.get(f"/jobs/{mine['id']}/results").status_code == 404
    assert [job["id"] for job in other.get("/jobs").json()["jobs"]] == [hers["id"]]
    assert {mine["id"], hers["id"]} <= {job["id"] for job in jobs.ask("GET", "/jobs")["jobs"]}  # an administrator
    jobs.wait(hers["id"])
    other.close()


def test_a_revoked_key_stops_its_jobs(paced_jobs: JobServer) -> None:
    made = paced_jobs.ask("POST", "/keys", json={"name": "for a job", "permissions": ["write"]})
    client = httpx.Client(base_url=f"{paced_jobs.url}/api/v1", headers={"Authorization": f"Bearer {made['key']}"})
    body = {"text": "one two", "max_tokens": 5000, "async": True}
    job = client.post("/infer", json=body).json()["job"]
    client.close()
    paced_jobs.wait(job["id"], lambda job: job["state"] == "running")
    paced_jobs.ask("DELETE", f"/keys/{made['api_key']['id']}")

    ended = paced_jobs.wait(job["id"])
    assert (ended["state"], ended["error"]["code"]) == ("failed", "AUTHENTICATION_FAILED")


def test_a_spent_budget_lets_the_job_wait(jobs: JobServer) -> None:
    limited = {"name": "little", "permissions": ["write"], "token_budget": 400, "token_budget_window": 3600}
    made = jobs.ask("POST", "/keys", json=limited)
    client = httpx.Client(base_url=f"{jobs.url}/api/v1", headers={"Authorization": f"Bearer {made['key']}"})
    lines = "\n".join(json.dumps({"text": "one two", "max_tokens": 20}) for _ in range(50))
    job = client.post("/jobs", content=lines, headers={"Content-Type": "application/x-ndjson"}).json()["job"]
    client.close()

    waiting = jobs.wait(job["id"], lambda job: job["waits"] is not None and job["progress"]["completed"] > 0)
    assert waiting["waits"]["for"] == "token_budget"
    assert waiting["usage"]["prompt_tokens"] + waiting["usage"]["tokens_generated"] <= 400
    assert jobs.ask("DELETE", f"/jobs/{job['id']}")["job"]["progress"]["failed"] == 0


def test_an_item_that_kills_its_engine_takes_no_other_with_it(paced_jobs: JobServer) -> None:
    lines = [json.dumps({"text": f"one two {number}", "max_tokens": 2}) for number in range(30)]
    lines.insert(10, json.dumps({"id": "deadly", "text": "[[die]]", "max_tokens": 2}))
    job = paced_jobs.wait(paced_jobs.submit("\n".join(lines))["id"])

    assert (job["progress"]["completed"], job["progress"]["failed"]) == (30, 1)
    (failed,) = paced_jobs.ask("GET", f"/jobs/{job['id']}/results", params={"state": "failed"}).splitlines()
    assert (json.loads(failed)["id"], json.loads(failed)["error"]["code"]) == ("deadly", "INFERENCE_FAILED")


def wait_for_running(server: JobServer, is_right: Any) -> None:
    """Wait for how many requests the workers have in hand."""
    deadline = time.monotonic() + 60
    while True:
        workers = server.ask("GET", "/system/workers")["workers"]
        counts = [worker["active_requests"] for worker in workers]
        if is_right(sum(counts)):
            return
        assert time.monotonic() < deadline, counts
        time.sleep(0.05)
