"""The doors that OpenAI's clients know: /v1/models, /v1/chat/completions, /v1/completions, /v1/embeddings."""

from typing import Any, ClassVar

import msgspec
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from accounts.doors import Door
from common.direct_body import direct_body
from common.request_id import request_id
from inference import services
from inference.bodies import Prompt
from inference.messages import Kind
from inference.openai_door.answers import ChunkLines, Style, model_body
from inference.openai_door.bodies import CompletionRequest, parse_chat, parse_completion
from inference.openai_door.embeddings import FIELD_NAMES, embed, parse_embedding
from inference.openai_door.openapi import (
    OpenAISchema,
    describe_chat,
    describe_completion,
    describe_embedding,
    describe_model,
    describe_models,
)
from inference.openai_door.whole import complete, naming
from inference.services import Origin
from models_mgmt.models import Model
from models_mgmt.selectors import aresolve_model, find_models

_encode = msgspec.json.Encoder().encode


class ListModels(Door):
    limit_group = "models"
    permission = "read"
    schema = OpenAISchema()

    @describe_models
    async def get(self, request: Request) -> HttpResponse:
        """The models that requests may name."""
        return _json({"object": "list", "data": [model_body(model) async for model in find_models()]})


class RetrieveModel(Door):
    limit_group = "models"
    permission = "read"
    schema = OpenAISchema()

    @describe_model
    async def get(self, request: Request, model_id: str) -> HttpResponse:
        """One model, by its id or an alias."""
        return _json(model_body(await aresolve_model(model_id)))


class CompletionDoor(Door):
    """What both kinds of completion have in common."""

    limit_group = "infer"
    permission = "write"
    schema = OpenAISchema()
    kind: ClassVar[Kind]
    style: ClassVar[Style]

    def parse(self, data: Any) -> CompletionRequest:
        """Raises InvalidInput."""
        raise NotImplementedError

    async def _complete(self, request: Request) -> HttpResponseBase:
        asked = self.parse(request.data)
        origin = Origin(caller=self.caller, request_id=request_id.get(), kind=self.kind, headers=self.headers)
        if not asked.stream:
            return _json(await complete(asked, origin))
        with naming(asked.field_names):
            return await self._stream(asked, asked.choices(), origin)

    async def _stream(self, asked: CompletionRequest, prompts: list[Prompt], origin: Origin) -> StreamingHttpResponse:
        def lines(model: Model) -> ChunkLines:
            return ChunkLines(
                self.style,
                request_id=origin.request_id,
                model=model,
                choices=len(prompts),
                n=asked.n,
                usage=asked.include_usage,
                tooling=asked.tooling,
            )

        events = await services.stream_completions(
            model_name=asked.model,
            prompts=prompts,
            seconds=asked.seconds,
            origin=origin,
            lines=lines,
            body=direct_body(getattr(self.request._request, "scope", {})),
        )
        return StreamingHttpResponse(
            events,
            content_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )


class ChatCompletions(CompletionDoor):
    kind = "chat_completions"
    style = "chat"

    def parse(self, data: Any) -> CompletionRequest:
        return parse_chat(data)

    @describe_chat
    async def post(self, request: Request) -> HttpResponseBase:
        """Answer a conversation, whole or as a stream of chunks."""
        return await self._complete(request)


class Completions(CompletionDoor):
    kind = "completions"
    style = "text"

    def parse(self, data: Any) -> CompletionRequest:
        return parse_completion(data)

    @describe_completion
    async def post(self, request: Request) -> HttpResponseBase:
        """Go on with a text, whole or as a stream of chunks."""
        return await self._complete(request)


class Embeddings(Door):
    limit_group = "infer"
    permission = "write"
    schema = OpenAISchema()

    @describe_embedding
    async def post(self, request: Request) -> HttpResponse:
        """Turn texts into vectors."""
        asked = parse_embedding(request.data)
        origin = Origin(caller=self.caller, request_id=request_id.get(), kind="embeddings", headers=self.headers)
        with naming(FIELD_NAMES):
            return _json(await embed(asked=asked, origin=origin))


def _json(body: dict[str, Any]) -> HttpResponse:
    return HttpResponse(_encode(body), content_type="application/json")
