"""What a job goes through and loses nothing by."""

import json
import os
import signal
import time

from tests.jobs.conftest import JobServer

ITEMS, TOKENS = 1200, 20


def kill(server: JobServer, name: str) -> None:
    """Kill one of its processes, and wait until another one is there in its place."""
    pid = server.running.pid_of(name)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while server.running.pid_of(name) in (pid, None):
        assert time.monotonic() < deadline, f"{name} did not come back"
        time.sleep(0.05)


def test_every_item_gets_one_result_whatever_is_killed_in_mid_job(paced_jobs: JobServer) -> None:
    lines = [
        json.dumps({"id": f"item-{number}", "text": f"prompt {number}", "max_tokens": TOKENS})
        for number in range(ITEMS)
    ]
    job_id = paced_jobs.submit("\n".join(lines))["id"]

    for share, name in ((0.05, "worker-cpu"), (0.2, "web"), (0.35, "valkey"), (0.5, "scheduler")):
        before = paced_jobs.wait(job_id, lambda job, share=share: job["progress"]["fraction"] >= share)  # type: ignore[misc]
        assert before["state"] == "running", "it ended before everything could be killed"
        kill(paced_jobs, name)
    ended = paced_jobs.wait(job_id)

    assert ended["state"] == "completed"
    assert ended["progress"] == {
        "total": ITEMS, "completed": ITEMS, "failed": 0, "cancelled": 0, "pending": 0, "fraction": 1.0
    }  # fmt: skip
    results = [json.loads(line) for line in paced_jobs.ask("GET", f"/jobs/{job_id}/results").splitlines()]
    assert [result["id"] for result in results] == [f"item-{number}" for number in range(ITEMS)]
    assert all(result["generated_text"].startswith(f"prompt {number}prompt") for number, result in enumerate(results))
    assert ended["usage"]["tokens_generated"] == TOKENS * ITEMS
