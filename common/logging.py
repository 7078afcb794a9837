"""Log lines for people and for machines; each carries its request's id."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from common.envelope import timestamp
from common.request_id import request_id


class RequestIdFilter(logging.Filter):
    """Gives every record the id of the request it was written for."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = request_id.get()
        return True


class TextFormatter(logging.Formatter):
    """One readable line: time, level, logger, request id, message."""

    def format(self, record: logging.LogRecord) -> str:
        written_for = getattr(record, "request_id", "")
        head = f"{_moment(record)} {record.levelname:<7} {record.name}"
        line = f"{head} [{written_for}] " if written_for else f"{head} "
        return line + _escaped(record.getMessage() + _metadata(record)) + _traceback(self, record)


class JSONFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "timestamp": _moment(record),
            "level": record.levelname.lower(),
            "component": record.name,
            "message": record.getMessage(),
        }
        if metadata := getattr(record, "metadata", None):
            entry["metadata"] = metadata
        if written_for := getattr(record, "request_id", ""):
            entry["request_id"] = written_for
        if traceback := _traceback(self, record):
            entry["traceback"] = traceback.lstrip("\n")
        return json.dumps(entry, default=str)


def _moment(record: logging.LogRecord) -> str:
    return timestamp(datetime.fromtimestamp(record.created, UTC))


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return "\n" + formatter.formatException(record.exc_info) if record.exc_info else ""


def _metadata(record: logging.LogRecord) -> str:
    """What a line says beside its message (`extra={"metadata": {…}}`), such as ` (threshold 0.5)`."""
    metadata = getattr(record, "metadata", None)
    return f" ({', '.join(f'{name} {value}' for name, value in metadata.items())})" if metadata else ""


def _escaped(message: str) -> str:
    """Without line breaks, so that no request can forge a line of its own."""
    return message.replace("\r", "\\r").replace("\n", "\\n")
