"""Log lines for people and for machines; each carries its request's id."""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from common.envelope import timestamp
from common.request_id import request_id

# What writes which lines, for people: by the first part of the logger's name.
_COMPONENTS = {
    "inference": "inference_engine",
    "engine": "inference_engine",
    "models_mgmt": "model_manager",
    "plugins_app": "plugin_manager",
    "accounts": "accounts",
    "monitoring": "monitoring",
    "common": "server",
    "llama_gpu_site": "server",
    "django": "web_server",
    "daphne": "web_server",
    "channels": "websocket_server",
    "socketio": "websocket_server",
    "engineio": "websocket_server",
    "celery": "task_queue",
    "kombu": "task_queue",
}
COMPONENTS = tuple(sorted(set(_COMPONENTS.values())))
_SECRET = re.compile(
    r"(?P<kept>\blgpu_[A-Za-z0-9]+_|\bBearer\s+|://[^\s:/@]*:|\b(?:password|api_key|secret)['\"]?\s*[=:]\s*)"
    r"(?:[^\s@,;'\"]+(?=@)|[^\s@,;'\"]+)|\beyJ[\w-]+\.[\w-]+\.[\w-]+",
    re.IGNORECASE,
)


def component_of(logger_name: str) -> str:
    """The part of the server that a logger belongs to; a foreign logger's name stays as it is."""
    return _COMPONENTS.get(logger_name.partition(".")[0], logger_name)


def redacted(text: str) -> str:
    """Without what looks like a key, a token or a password. None should be in a line; this is for those of others."""
    return _SECRET.sub(lambda match: f"{match['kept'] or ''}***", text)


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
        return line + _escaped(redacted(record.getMessage()) + _metadata(record)) + _traceback(self, record)


class JSONFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "timestamp": _moment(record),
            "level": record.levelname.lower(),
            "component": component_of(record.name),
            "logger": record.name,
            "message": redacted(record.getMessage()),
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
    return "\n" + redacted(formatter.formatException(record.exc_info)) if record.exc_info else ""


def _metadata(record: logging.LogRecord) -> str:
    """What a line says beside its message (`extra={"metadata": {…}}`), such as ` (threshold 0.5)`."""
    metadata = getattr(record, "metadata", None)
    return f" ({', '.join(f'{name} {value}' for name, value in metadata.items())})" if metadata else ""


def _escaped(message: str) -> str:
    """Without line breaks, so that no request can forge a line of its own."""
    return message.replace("\r", "\\r").replace("\n", "\\n")
