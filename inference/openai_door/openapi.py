"""What the OpenAPI document says about the addresses below /v1/."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers

from common.openapi import DoorSchema
from inference.openai_door.bodies import ChatBody, CompletionBody
from inference.openai_door.embeddings import EmbeddingBody
from inference.openapi import inlined


class OpenAIErrorBody(serializers.Serializer[Any]):
    message = serializers.CharField()
    type = serializers.CharField()
    param = serializers.CharField(allow_null=True)
    code = serializers.CharField(allow_null=True)


class OpenAIErrorResponseBody(serializers.Serializer[Any]):
    """The body of a failed request, as OpenAI's clients read it."""

    error = OpenAIErrorBody()


class OpenAISchema(DoorSchema):
    """As other doors, but for the shape of failures."""

    error_body = OpenAIErrorResponseBody


class OpenAIModelBody(serializers.Serializer[Any]):
    id = serializers.CharField()
    object = serializers.ChoiceField(choices=["model"])
    created = serializers.IntegerField()
    owned_by = serializers.CharField()


class OpenAIModelsBody(serializers.Serializer[Any]):
    object = serializers.ChoiceField(choices=["list"])
    data = OpenAIModelBody(many=True)  # type: ignore[assignment]  # a field's attribute of that name is another thing


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


_STRING = {"type": "string"}
_INTEGER = {"type": "integer"}
_REASON = {"type": "string", "enum": ["stop", "length", "tool_calls"]}
_FUNCTION = _object(name=_STRING, arguments=_STRING)
_CALL = _object(id=_STRING, type={"type": "string", "enum": ["function"]}, function=_FUNCTION)
_USAGE = _object(
    prompt_tokens=_INTEGER,
    completion_tokens=_INTEGER,
    total_tokens=_INTEGER,
    prompt_tokens_details=_object(cached_tokens=_INTEGER),
)


def _completion(kind: str, **choice: Any) -> dict[str, Any]:
    choices = {"type": "array", "items": _object(index=_INTEGER, **choice, finish_reason=_REASON)}
    head = {"id": _STRING, "object": {"type": "string", "enum": [kind]}, "created": _INTEGER, "model": _STRING}
    return _object(**head, choices=choices, usage=_USAGE)


def _answers(body: dict[str, Any]) -> dict[Any, Any]:
    return {
        (200, "application/json"): OpenApiResponse(
            response=body, description="With `stream: true`, chunks as Server-Sent Events, and `[DONE]` at the end."
        ),
        404: OpenApiResponse(response=OpenAIErrorResponseBody, description="model_not_found"),
        422: OpenApiResponse(response=OpenAIErrorResponseBody, description="content_filter: a plugin has stopped it."),
    }


_TAGS = ["OpenAI-compatible"]
_MODEL_ID = OpenApiParameter("model_id", str, OpenApiParameter.PATH, description='An id or alias, or "default".')

describe_models = extend_schema(operation_id="openai_list_models", tags=_TAGS, responses=OpenAIModelsBody)
describe_model = extend_schema(
    operation_id="openai_retrieve_model", tags=_TAGS, parameters=[_MODEL_ID], responses=OpenAIModelBody
)
describe_chat = extend_schema(
    operation_id="openai_chat_completion",
    tags=_TAGS,
    request={"application/json": inlined(ChatBody)},
    responses=_answers(
        _completion(
            "chat.completion",
            message=_object(
                role={"type": "string", "enum": ["assistant"]},
                content={"type": ["string", "null"]},
                tool_calls={"type": "array", "items": _CALL},
            ),
        )
    ),
    examples=[
        OpenApiExample(
            "A question",
            value={"model": "default", "messages": [{"role": "user", "content": "Why is the sky blue?"}]},
            request_only=True,
        )
    ],
)
describe_completion = extend_schema(
    operation_id="openai_completion",
    tags=_TAGS,
    request={"application/json": inlined(CompletionBody)},
    responses=_answers(_completion("text_completion", text=_STRING)),
    examples=[
        OpenApiExample(
            "A beginning", value={"model": "default", "prompt": "Once upon a time", "max_tokens": 50}, request_only=True
        )
    ],
)
describe_embedding = extend_schema(
    operation_id="openai_embedding",
    tags=_TAGS,
    request={"application/json": inlined(EmbeddingBody)},
    responses={
        200: _object(
            object={"type": "string", "enum": ["list"]},
            data={
                "type": "array",
                "items": _object(
                    object={"type": "string", "enum": ["embedding"]},
                    index=_INTEGER,
                    embedding={"oneOf": [{"type": "array", "items": {"type": "number"}}, _STRING]},
                ),
            },
            model=_STRING,
            usage=_object(prompt_tokens=_INTEGER, total_tokens=_INTEGER),
        ),
        404: OpenApiResponse(response=OpenAIErrorResponseBody, description="model_not_found"),
    },
    examples=[
        OpenApiExample(
            "Two texts", value={"model": "default", "input": ["Why is the sky blue?", "Clouds"]}, request_only=True
        )
    ],
)
