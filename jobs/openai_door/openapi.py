"""What the OpenAPI document says about /v1/files and /v1/batches."""

from functools import partial
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from inference.openapi import inlined
from jobs.openai_door.bodies import BatchBody
from jobs.openai_door.serializers import BatchesQuery, FilesQuery

_schema = partial(extend_schema, tags=["OpenAI-compatible"])
_FILE_ID = OpenApiParameter("file_id", str, OpenApiParameter.PATH, description="The id of a file.")
_BATCH_ID = OpenApiParameter("batch_id", str, OpenApiParameter.PATH, description="The id of a batch.")


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


_STRING: dict[str, Any] = {"type": "string"}
_INTEGER: dict[str, Any] = {"type": "integer"}
_TIME: dict[str, Any] = {"type": ["integer", "null"]}
_MAYBE: dict[str, Any] = {"type": ["string", "null"]}
_FILE = _object(
    id=_STRING,
    object={"type": "string", "enum": ["file"]},
    bytes=_INTEGER,
    created_at=_INTEGER,
    expires_at=_TIME,
    filename=_STRING,
    purpose={"type": "string", "enum": ["batch", "batch_output"]},
    status={"type": "string", "enum": ["processed"]},
)
_BATCH = _object(
    id=_STRING,
    object={"type": "string", "enum": ["batch"]},
    endpoint=_STRING,
    input_file_id=_STRING,
    completion_window=_STRING,
    status={
        "type": "string",
        "enum": ["validating", "in_progress", "completed", "failed", "cancelled", "expired"],
    },
    output_file_id=_MAYBE,
    error_file_id=_MAYBE,
    created_at=_INTEGER,
    in_progress_at=_TIME,
    expires_at=_TIME,
    completed_at=_TIME,
    failed_at=_TIME,
    cancelled_at=_TIME,
    expired_at=_TIME,
    request_counts=_object(total=_INTEGER, completed=_INTEGER, failed=_INTEGER),
    metadata={"type": ["object", "null"]},
)


def _list_of(item: dict[str, Any]) -> dict[str, Any]:
    return _object(
        object={"type": "string", "enum": ["list"]},
        data={"type": "array", "items": item},
        first_id=_MAYBE,
        last_id=_MAYBE,
        has_more={"type": "boolean"},
    )


_UPLOAD = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": ["batch"]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer"},
    },
}
describe_upload = _schema(
    operation_id="openai_upload_file", request={"multipart/form-data": _UPLOAD}, responses={200: _FILE}
)
describe_files = _schema(operation_id="openai_list_files", parameters=[FilesQuery], responses={200: _list_of(_FILE)})
describe_file = _schema(operation_id="openai_retrieve_file", parameters=[_FILE_ID], responses={200: _FILE})
describe_delete_file = _schema(
    operation_id="openai_delete_file",
    parameters=[_FILE_ID],
    responses={200: _object(id=_STRING, object=_STRING, deleted={"type": "boolean"})},
)
describe_content = _schema(
    operation_id="openai_file_content",
    parameters=[_FILE_ID],
    responses={(200, "application/octet-stream"): OpenApiResponse(OpenApiTypes.BINARY, "The file.")},
)
describe_create_batch = _schema(
    operation_id="openai_create_batch",
    request={"application/json": inlined(BatchBody)},
    responses={200: _BATCH},
    examples=[
        OpenApiExample(
            "A batch",
            value={
                "input_file_id": "file-…",
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
            request_only=True,
        )
    ],
)
describe_batches = _schema(
    operation_id="openai_list_batches", parameters=[BatchesQuery], responses={200: _list_of(_BATCH)}
)
describe_batch = _schema(operation_id="openai_retrieve_batch", parameters=[_BATCH_ID], responses={200: _BATCH})
describe_cancel_batch = _schema(
    operation_id="openai_cancel_batch", parameters=[_BATCH_ID], request=None, responses={200: _BATCH}
)
