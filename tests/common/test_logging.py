import json
import logging
import sys

from common.logging import JSONFormatter, RequestIdFilter, TextFormatter
from common.request_id import request_id


def record(message: str, *, exc_info: object = None) -> logging.LogRecord:
    made = logging.LogRecord("a.logger", logging.WARNING, __file__, 1, message, (), exc_info)  # type: ignore[arg-type]
    assert RequestIdFilter().filter(made)
    return made


def test_each_line_carries_its_request_id() -> None:
    token = request_id.set("req_of_this_test")
    try:
        written = record("something happened")
    finally:
        request_id.reset(token)
    assert "WARNING a.logger [req_of_this_test] something happened" in TextFormatter().format(written)
    entry = json.loads(JSONFormatter().format(written))
    assert entry["request_id"] == "req_of_this_test"
    assert (entry["level"], entry["component"], entry["message"]) == ("warning", "a.logger", "something happened")
    assert entry["timestamp"].endswith("Z")


def test_a_line_names_the_part_of_the_server_it_comes_from() -> None:
    written = logging.LogRecord("models_mgmt.device_host", logging.INFO, __file__, 1, "loaded", (), None)
    entry = json.loads(JSONFormatter().format(written))
    assert (entry["component"], entry["logger"]) == ("model_manager", "models_mgmt.device_host")


def test_no_line_shows_a_secret() -> None:
    written = record("asked with Bearer lgpu_Ab12Cd34_0123456789abcdefghijklmnopqrstuv")
    for formatter in (TextFormatter(), JSONFormatter()):
        line = formatter.format(written)
        assert "0123456789abcdef" not in line
        assert "***" in line


def test_no_message_can_forge_a_line() -> None:
    assert "\n" not in TextFormatter().format(record("one\r\ntwo"))
    assert "\n" not in JSONFormatter().format(record("one\ntwo"))


def test_tracebacks_are_kept() -> None:
    try:
        raise ValueError("inner")
    except ValueError:
        written = record("failed", exc_info=sys.exc_info())
    assert "ValueError: inner" in TextFormatter().format(written)
    assert "ValueError: inner" in json.loads(JSONFormatter().format(written))["traceback"]
