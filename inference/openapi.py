"""What the OpenAPI document says about the inference endpoints."""

from typing import Any

import msgspec
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema

from common.openapi import ErrorResponseBody
from inference.bodies import BatchBody, BatchItem, InferBody


def inlined(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a msgspec Struct, without references."""
    schema = msgspec.json.schema(kind)
    definitions = schema.get("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(definitions[node["$ref"].rsplit("/", 1)[-1]])
            return {name: resolve(item) for name, item in node.items() if name != "$defs"}
        return [resolve(item) for item in node] if isinstance(node, list) else node

    return dict(resolve(schema))


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


_STRING = {"type": "string"}
_INTEGER = {"type": "integer"}
_NUMBER = {"type": "number"}
_TRUE = {"type": "boolean", "enum": [True]}
_FIGURES = {
    "tokens_generated": _INTEGER,
    "inference_time": _NUMBER,
    "finish_reason": {"type": "string", "enum": ["stop", "length", "cancelled"]},
    "prompt_tokens": _INTEGER,
    "cached_tokens": _INTEGER,
    "queue_time": _NUMBER,
    "time_to_first_token": _NUMBER,
}
_INFER = _object(
    success=_TRUE,
    result=_object(generated_text=_STRING, **_FIGURES, model_used=_STRING, backend=_STRING),
    metadata=_object(request_id=_STRING, timestamp={"type": "string", "format": "date-time"}, processing_time=_NUMBER),
)
_ITEM_ERROR = _object(code=_STRING, message=_STRING, details={"type": "object"})
_BATCH = _object(
    success=_TRUE,
    results={"type": "array", "items": _object(id=_STRING, generated_text=_STRING, **_FIGURES, error=_ITEM_ERROR)},
    metadata=_object(
        batch_id=_STRING,
        request_id=_STRING,
        timestamp={"type": "string", "format": "date-time"},
        total_processing_time=_NUMBER,
        items_processed=_INTEGER,
        items_failed=_INTEGER,
        backend={"type": ["string", "null"]},
    ),
)
_BATCH_BODY = inlined(BatchBody)
_BATCH_BODY["properties"]["inputs"]["items"] = inlined(BatchItem)
_EVENTS = OpenApiResponse(
    response=_STRING,
    description="Server-Sent Events; the last one has `is_complete: true`, `final_text` and the result's figures. "
    "An error after the first byte is an `event: error` with the usual body of a failure.",
)
_ERRORS = {
    code: OpenApiResponse(response=ErrorResponseBody, description=text)
    for code, text in {
        400: "INVALID_INPUT; `details.field` names the field.",
        401: "AUTHENTICATION_FAILED",
        403: "PERMISSION_DENIED",
        404: "MODEL_NOT_FOUND",
        422: "CONTENT_BLOCKED: a plugin has stopped the answer; details.plugin names it.",
        429: "RATE_LIMIT_EXCEEDED",
        500: "INFERENCE_FAILED or MODEL_LOAD_FAILED",
        503: "BACKEND_UNAVAILABLE or INSUFFICIENT_MEMORY",
    }.items()
}
_TEXT = "Explain the concept of machine learning"

describe_infer = extend_schema(
    operation_id="infer",
    tags=["Inference"],
    request={"application/json": inlined(InferBody)},
    responses={200: _INFER, **_ERRORS},
    examples=[
        OpenApiExample(
            "A prompt",
            value={"text": _TEXT, "model": "default", "max_tokens": 150, "temperature": 0.7, "top_p": 0.9},
            request_only=True,
        )
    ],
)
describe_batch_infer = extend_schema(
    operation_id="batch_infer",
    tags=["Inference"],
    request={"application/json": _BATCH_BODY},
    responses={200: _BATCH, **_ERRORS},
    examples=[
        OpenApiExample(
            "Two prompts",
            value={
                "inputs": [
                    {"id": "req_1", "text": "What is artificial intelligence?", "max_tokens": 100},
                    {"id": "req_2", "text": "Explain neural networks", "max_tokens": 150},
                ],
                "temperature": 0.7,
            },
            request_only=True,
        )
    ],
)
describe_stream_infer = extend_schema(
    operation_id="stream_infer",
    tags=["Inference"],
    request={"application/json": inlined(InferBody)},
    responses={(200, "text/event-stream"): _EVENTS, **_ERRORS},
    examples=[
        OpenApiExample(
            "A prompt",
            value={"text": "Write a story about space exploration", "max_tokens": 200, "stream": True},
            request_only=True,
        )
    ],
)
