"""What is kept of a request: its figures, and never a word of it."""

import sqlite3
from contextlib import closing
from typing import Any

import httpx

from tests.inference.conftest import EchoServer, wait_until
from tests.server_keys import make_keys

SECRET = "zebra-marmalade"


def records(server: EchoServer, request_id: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(server.running_server.data_dir / "llama_gpu.sqlite3")) as database:
        database.row_factory = sqlite3.Row
        query = "SELECT * FROM inference_requestrecord WHERE request_id = ? ORDER BY item"
        return [dict(row) for row in database.execute(query, [request_id])]


def written(server: EchoServer, request_id: str, count: int = 1) -> list[dict[str, Any]]:
    wait_until(lambda: len(records(server, request_id)) >= count)
    return records(server, request_id)


def test_a_completed_request_is_recorded(instant_server: EchoServer) -> None:
    instant_server.post("infer", {"text": "a b c", "max_tokens": 4}, **{"X-Request-ID": "recorded-1"})

    (row,) = written(instant_server, "recorded-1")
    assert (row["kind"], row["state"], row["finish_reason"]) == ("infer", "completed", "length")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (3, 4)
    assert (row["model"], row["backend"]) == ("echo", "cpu")
    assert row["user_id"] is not None
    assert row["key_id"] is not None
    assert row["total_time"] > 0


def test_each_item_of_a_batch_is_recorded(instant_server: EchoServer) -> None:
    body = {"inputs": [{"text": "a"}, {"text": "[[fail]]"}], "max_tokens": 2}
    instant_server.post("batch_infer", body, **{"X-Request-ID": "recorded-2"})

    good, bad = written(instant_server, "recorded-2", 2)
    assert (good["item"], good["state"]) == (0, "completed")
    assert (bad["item"], bad["state"], bad["error_code"]) == (1, "failed", "INFERENCE_FAILED")


def test_a_timeout_is_recorded_as_what_it_was(paced_server: EchoServer) -> None:
    body = {"text": "a b", "max_tokens": 6000, "timeout": 0.3}
    paced_server.post("infer", body, **{"X-Request-ID": "recorded-3"})

    (row,) = written(paced_server, "recorded-3")
    assert (row["state"], row["finish_reason"], row["cancel_reason"]) == ("cancelled", "cancelled", "timeout")
    assert row["completion_tokens"] > 0


def test_no_prompt_and_no_answer_is_ever_logged_or_kept(instant_server: EchoServer) -> None:
    for path in ("infer", "stream_infer"):
        instant_server.post(path, {"text": f"{SECRET} [[fail]]"})
        instant_server.post(path, {"text": SECRET, "system": SECRET, "max_tokens": 3}, **{"X-Request-ID": "recorded-4"})
        instant_server.post(path, {"text": SECRET, "max_tokens": SECRET})
    written(instant_server, "recorded-4", 2)

    assert SECRET not in instant_server.log()
    database = instant_server.running_server.data_dir / "llama_gpu.sqlite3"
    wal = database.with_name(f"{database.name}-wal")
    for file in (database, wal):
        assert SECRET.encode() not in (file.read_bytes() if file.exists() else b"")


def test_usage_is_added_up_with_the_records(instant_server: EchoServer) -> None:
    (key,) = make_keys(instant_server.running_server, {"owner": "usage", "name": "counted"})
    headers = {"Authorization": f"Bearer {key}"}
    for _ in range(3):
        assert instant_server.post("infer", {"text": "a b c", "max_tokens": 4}, **headers).status_code == 200
    instant_server.post("infer", {"text": "[[fail]]", "max_tokens": 4}, **headers)

    def rows() -> list[dict[str, Any]]:
        answer = httpx.get(f"{instant_server.url}/api/v1/usage", headers=headers)
        assert answer.status_code == 200
        found: list[dict[str, Any]] = answer.json()["usage"]
        return found

    wait_until(lambda: sum(row["requests"] for row in rows()) == 4)
    (row,) = rows()
    assert (row["user"], row["key"]["name"], row["model"]) == ("usage", "counted", "echo")
    assert (row["completed"], row["failed"], row["cancelled"]) == (3, 1, 0)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (3 * 3 + 2, 3 * 4)
