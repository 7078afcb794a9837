"""Lines of the log: kept in batches beside the work, and found again by GET /system/logs."""

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError
from django.http import HttpResponse
from django.test import AsyncClient

from common.event_reader import read_events
from common.events import LogEvent
from common.request_id import request_id
from monitoring import logs
from monitoring.logs import DatabaseHandler
from monitoring.models import LogEntry
from tests.accounts.conftest import bearer, make_key

pytestmark = pytest.mark.django_db(transaction=True)
Read = Callable[[str], Awaitable[HttpResponse]]
BEGIN = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def handler() -> Iterator[DatabaseHandler]:
    """Written out by `flush_once`, not by its thread."""
    made = DatabaseHandler("web")
    yield made
    made.close()


@pytest.fixture
def log(handler: DatabaseHandler) -> Iterator[logging.Logger]:
    logger = logging.getLogger("plugins_app.of_a_test")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.removeHandler(handler)


# ---------------------------------------------------------------- keeping


def test_a_line_is_kept_with_all_that_it_says(clean_redis: str, handler: DatabaseHandler, log: logging.Logger) -> None:
    token = request_id.set("req_of_a_test")
    log.warning("Plugin %s took longer", "a", extra={"metadata": {"execution_time": 0.85, "threshold": 0.5}})
    request_id.reset(token)
    assert not LogEntry.objects.exists(), "to log must not wait for the database"
    handler.flush_once()
    entry = LogEntry.objects.get()
    assert (entry.message, entry.level, entry.component) == ("Plugin a took longer", 30, "plugin_manager")
    assert (entry.logger, entry.request_id, entry.process) == ("plugins_app.of_a_test", "req_of_a_test", "web")
    assert entry.metadata == {"execution_time": 0.85, "threshold": 0.5}
    assert abs(datetime.now(UTC) - entry.at) < timedelta(seconds=30)


def test_of_an_exception_its_kind_is_kept(clean_redis: str, handler: DatabaseHandler, log: logging.Logger) -> None:
    try:
        raise ValueError("inner")
    except ValueError:
        log.exception("it failed")
    handler.flush_once()
    entry = LogEntry.objects.get()
    assert (entry.message, entry.level, entry.metadata) == ("it failed", 40, {"exception": "ValueError"})


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("key lgpu_Ab12Cd34_0123456789abcdefghijklmnopqrstuv!", "key lgpu_Ab12Cd34_***"),
        ("Authorization: Bearer some-long-credential", "Authorization: Bearer ***"),
        ("to redis://:hunter2@host:6379/0", "to redis://:***@host:6379/0"),
        ("password=hunter2, name=ada", "password=***, name=ada"),
        ("a token eyJhbGciOi.eyJ1c2VyIjo.c2lnbmF0dXJl here", "a token *** here"),
        ("12 prompt and 3 new tokens", "12 prompt and 3 new tokens"),
    ],
)
def test_what_looks_like_a_secret_is_not(
    clean_redis: str, handler: DatabaseHandler, log: logging.Logger, message: str, kept: str
) -> None:
    log.info("%s", message)
    handler.flush_once()
    assert LogEntry.objects.get().message == kept


def test_lines_are_written_by_themselves_and_at_the_end(clean_redis: str, log: logging.Logger) -> None:
    handler = DatabaseHandler("worker-cpu")
    handler.start()
    log.addHandler(handler)
    try:
        log.info("in the middle")
        deadline = time.monotonic() + 10
        while not LogEntry.objects.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        log.info("at the end")
        handler.close()
    finally:
        log.removeHandler(handler)
    assert set(LogEntry.objects.values_list("message", flat=True)) == {"in the middle", "at the end"}


def test_more_than_can_wait_is_dropped_and_counted(
    clean_redis: str, handler: DatabaseHandler, log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING", 10)
    for number in range(25):
        log.info("line %d", number)
    handler.flush_once()
    messages = list(LogEntry.objects.order_by("id").values_list("message", flat=True))
    assert messages[:10] == [f"line {number}" for number in range(10)]
    assert messages[10:] == ["15 lines were dropped, since they could not be written in time"]


def test_what_can_not_be_written_now_is_written_later(
    clean_redis: str, handler: DatabaseHandler, log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.info("while the database is away")
    with monkeypatch.context() as patch:
        patch.setattr(LogEntry.objects, "bulk_create", fail := _Failing())
        with pytest.raises(DatabaseError):
            handler.flush_once()
    assert fail.calls == 1
    handler.flush_once()
    handler.flush_once()
    assert [entry.message for entry in LogEntry.objects.all()] == ["while the database is away"]


class _Failing:
    calls = 0

    def __call__(self, *_: Any) -> None:
        self.calls += 1
        raise DatabaseError("gone")


def test_its_own_writing_makes_no_lines(clean_redis: str) -> None:
    handler = DatabaseHandler("web")
    record = logging.LogRecord("django.db.backends", logging.DEBUG, __file__, 1, "INSERT …", (), None)
    handler.emit(record)
    handler._thread = threading.current_thread()
    handler.emit(logging.LogRecord("common.events", logging.WARNING, __file__, 1, "not published", (), None))
    handler.flush_once()
    assert not LogEntry.objects.exists()


async def test_lines_are_events_too(clean_redis: str, handler: DatabaseHandler, log: logging.Logger) -> None:
    log.debug("a detail")
    log.error("something is wrong")
    await sync_to_async(handler.flush_once)()
    (told,) = [recorded.event for recorded in await read_events(channels=("log_events",))]
    assert isinstance(told, LogEvent)
    assert (told.level, told.component, told.message) == ("error", "plugin_manager", "something is wrong")


# ---------------------------------------------------------------- finding


def entry(second: float = 0.0, level: int = logging.INFO, **fields: Any) -> LogEntry:
    return LogEntry(
        **{
            "at": BEGIN + timedelta(seconds=second),
            "level": level,
            "component": "inference_engine",
            "logger": "inference.recorder",
            "message": f"line of second {second:g}",
            "host": "host",
            "process": "web",
            **fields,
        }
    )


@pytest.fixture
async def read(clean_redis: str) -> Read:
    return partial(AsyncClient().get, headers=bearer(await make_key(permission="admin")))


@sync_to_async
def keep(*entries: LogEntry) -> None:
    LogEntry.objects.bulk_create(entries)


async def found(read: Read, query: str = "") -> dict[str, Any]:
    response = await read(f"/api/v1/system/logs{query}")
    assert response.status_code == 200, response.content
    body: dict[str, Any] = response.json()  # type: ignore[attr-defined]
    return body


def seconds(body: dict[str, Any]) -> list[int]:
    return [int(line["message"].rpartition(" ")[2]) for line in body["logs"]]


async def test_the_newest_line_is_first(read: Read) -> None:
    await keep(entry(2), entry(0), entry(1, request_id="req_1", metadata={"load_time": 2.3}))
    body = await found(read)
    assert seconds(body) == [2, 1, 0]
    assert (body["success"], body["total_entries"], body["filtered_entries"], body["next_cursor"]) == (True, 3, 3, None)
    assert body["logs"][1] == {
        "timestamp": "2026-01-01T12:00:01.000Z",
        "level": "info",
        "component": "inference_engine",
        "message": "line of second 1",
        "metadata": {"load_time": 2.3},
        "request_id": "req_1",
        "logger": "inference.recorder",
        "host": "host",
        "process": "web",
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [4, 3, 2, 1]),
        ("?level=debug", [4, 3, 2, 1, 0]),
        ("?level=warning", [4, 2]),
        ("?level=error", [4]),
        ("?since=2026-01-01T12:00:03Z", [4, 3]),
        ("?since=2026-01-01T13:00:02%2B01:00", [4, 3, 2]),
        ("?since=2026-01-01T12:00:04", [4]),
        ("?component=plugin_manager", [3]),
        ("?search=SECOND%202", [2]),
        ("?request_id=req_1", [1]),
        ("?level=warning&since=2026-01-01T12:00:03Z", [4]),
        ("?limit=1", [4]),
    ],
)
async def test_filters(read: Read, query: str, expected: list[int]) -> None:
    await keep(
        entry(0, logging.DEBUG),
        entry(1, request_id="req_1"),
        entry(2, logging.WARNING),
        entry(3, component="plugin_manager"),
        entry(4, logging.ERROR),
    )
    body = await found(read, query)
    assert seconds(body) == expected
    assert body["total_entries"] == 5
    assert body["filtered_entries"] == (4 if query == "?limit=1" else len(expected))


async def test_pages_go_on_where_the_last_one_ended(read: Read) -> None:
    await keep(*(entry(second // 2 * 2, message=f"line {second}") for second in range(7)))
    pages, cursor = [], ""
    while True:
        body = await found(read, f"?limit=2{cursor}")
        pages.append(seconds(body))
        if len(pages) == 1:
            await keep(entry(99, message="line 99"), entry(-1, message="line 100"))  # what comes late shifts nothing
        if body["next_cursor"] is None:
            break
        cursor = f"&cursor={body['next_cursor']}"
    assert pages == [[6, 5], [4, 3], [2, 1], [0, 100]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("level=critical", "level"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("since=yesterday", "since"),
        ("cursor=nonsense", "cursor"),
        ("cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk6MQ", "cursor"),
        ("before=now", "before"),
    ],
)
async def test_a_bad_parameter_is_named(read: Read, query: str, field: str) -> None:
    response = await read(f"/api/v1/system/logs?{query}")
    error = response.json()["error"]  # type: ignore[attr-defined]
    assert (response.status_code, error["code"], error["details"]["field"]) == (400, "INVALID_INPUT", field)


async def test_only_administrators_read_it(clean_redis: str) -> None:
    key = await make_key(permission="write")
    response = await AsyncClient().get("/api/v1/system/logs", headers=bearer(key))
    assert (response.status_code, response.json()["error"]["code"]) == (403, "PERMISSION_DENIED")
