"""The model doors."""

from typing import Any, ClassVar

from asgiref.sync import sync_to_async
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.audit import calling
from accounts.caller import Permission
from accounts.doors import Door
from common.byte_sizes import format_bytes
from common.envelope import success
from common.errors import ApiError, ModelNotFound, PermissionDenied, from_code
from common.openapi import ErrorResponseBody
from models_mgmt import deployments, services
from models_mgmt.expected_memory import best_kind
from models_mgmt.live import with_workers
from models_mgmt.looking import Described, describe
from models_mgmt.made_files import conversion_of, remove_everywhere
from models_mgmt.models import Model
from models_mgmt.performance import performance_of
from models_mgmt.presence import alive_workers
from models_mgmt.selectors import find_models, known_deployments, resolve_model
from models_mgmt.serializers import (
    DeletedResponse,
    DeleteQuery,
    ModelResponse,
    ModelSettings,
    ModelsQuery,
    ModelsResponse,
    RegisterRequest,
    detail_body,
    summary_body,
)
from models_mgmt.source_error import SourceError

_MODEL_ID = OpenApiParameter("model_id", str, OpenApiParameter.PATH, description='An id or alias, or "default".')
_OWN_ID = OpenApiParameter("model_id", str, OpenApiParameter.PATH, description="The model's own id.")
_CONFLICT = OpenApiResponse(response=ErrorResponseBody, description="CONFLICT")
_EXAMPLES = [
    OpenApiExample(
        "From the hub", {"source": "meta-llama/Llama-3.2-1B-Instruct", "id": "llama-3.2-1b"}, request_only=True
    ),
    OpenApiExample(
        "A folder under a model root", {"source": "llama-2-7b-chat", "aliases": ["chat"]}, request_only=True
    ),
    OpenApiExample("A GGUF file", {"source": "mistral-7b.Q4_K_M.gguf", "default": True}, request_only=True),
]


class Models(Door):
    limit_group = "models"
    permission: ClassVar[dict[str, Permission]] = {"GET": "read", "POST": "admin"}

    @extend_schema(operation_id="list_models", tags=["Models"], parameters=[ModelsQuery], responses=ModelsResponse)
    async def get(self, request: Request) -> Response:
        """The models that can be used, and which of them are loaded."""
        query = ModelsQuery.parse(request.query_params.dict())
        is_loaded = query.pop("loaded", None)
        if not query.get("enabled", True) and "admin" not in self.caller.permissions:
            raise PermissionDenied(details={"required": "admin"})
        rows = [model async for model in find_models(**query)]
        workers = await alive_workers()
        deployed = [row async for row in known_deployments()]
        models, kind = with_workers(rows, workers, deployed), best_kind(workers)
        if is_loaded is not None:
            models = [model for model in models if model.is_loaded == is_loaded]
        return Response(
            success(
                models=[summary_body(model, kind) for model in models],
                total_models=len(models),
                loaded_models=sum(model.is_loaded for model in models),
            )
        )

    @extend_schema(
        operation_id="register_model",
        tags=["Models"],
        request=RegisterRequest,
        responses={201: ModelResponse, 409: _CONFLICT},
        examples=_EXAMPLES,
    )
    async def post(self, request: Request) -> Response:
        """Add a model: its files are looked at now, and downloaded or converted when it is loaded first."""
        fields = RegisterRequest.parse(request.data)
        described = await _looked_at(
            fields.pop("source"),
            kind=fields.pop("source_kind", ""),
            revision=fields.pop("revision", ""),
            trust_remote_code=fields.get("trust_remote_code", False),
            allow_pickle=fields.get("allow_pickle", False),
        )
        actor = calling(self.caller, request)
        model = await sync_to_async(services.register_model)(described, **fields, actor=actor)
        return Response(success(model=await _detail(model.id)), status=201)


class ModelDetail(Door):
    limit_group = "models"
    permission: ClassVar[dict[str, Permission]] = {"GET": "read", "PATCH": "admin", "DELETE": "admin"}

    @extend_schema(operation_id="get_model", tags=["Models"], parameters=[_MODEL_ID], responses=ModelResponse)
    async def get(self, request: Request, model_id: str) -> Response:
        """Everything that is known about one model."""
        try:
            model_id = (await sync_to_async(resolve_model)(model_id)).id
        except ModelNotFound:
            if "admin" not in self.caller.permissions:  # who may look at disabled ones, by their own id
                raise
        return Response(success(model=await _detail(model_id)))

    @extend_schema(
        operation_id="update_model",
        tags=["Models"],
        parameters=[_OWN_ID],
        request=ModelSettings,
        responses=ModelResponse,
        examples=[OpenApiExample("Switch an alias to this model", {"aliases": ["chat"]}, request_only=True)],
    )
    async def patch(self, request: Request, model_id: str) -> Response:
        """Change what operators decide about a model. A new revision, and new flags, act when it is loaded next."""
        changes = ModelSettings.parse(request.data)
        model = await sync_to_async(services.registered_model)(model_id)
        described = await _looked_at_again(model, changes) if "revision" in changes else None
        actor = calling(self.caller, request)
        model = await sync_to_async(services.update_model)(model_id, changes, described=described, actor=actor)
        return Response(success(model=await _detail(model.id)))

    @extend_schema(
        operation_id="delete_model",
        tags=["Models"],
        parameters=[_OWN_ID, DeleteQuery],
        responses={200: DeletedResponse, 409: _CONFLICT},
    )
    async def delete(self, request: Request, model_id: str) -> Response:
        """Take a model out of the registry; forced, it is unloaded first.

        Its files stay where they are, but for its conversion, if that is to go, too.
        """
        query = DeleteQuery.parse(request.query_params.dict())
        model = await sync_to_async(services.registered_model)(model_id)
        actor = calling(self.caller, request)
        deployed = [deployment async for deployment in known_deployments().filter(model=model)]
        (live,) = with_workers([model], await alive_workers(), deployed)
        if live.places and query["force"]:
            await deployments.unload(model, force=True, reason="deleted", actor=actor)
        made = await sync_to_async(conversion_of)(model) if query["files"] else ""
        await sync_to_async(services.delete_model)(model_id, held_by=live.places, force=query["force"], actor=actor)
        freed = await sync_to_async(remove_everywhere, thread_sensitive=False)(made) if made else 0
        return Response(
            success(
                message="Model deleted successfully",
                model_id=model_id,
                freed_disk=format_bytes(freed),
                freed_disk_bytes=freed,
            )
        )


async def _detail(model_id: str) -> dict[str, Any]:
    row = await sync_to_async(services.registered_model)(model_id)
    workers = await alive_workers()
    deployed = [deployment async for deployment in known_deployments().filter(model=row)]
    (live,) = with_workers([row], workers, deployed)
    performance = await sync_to_async(performance_of)(row.id)
    return await sync_to_async(detail_body)(live, performance, best_kind(workers))


async def _looked_at(source: str, **options: Any) -> Described:
    """A look takes seconds where a hub is asked, so it is not taken in the thread that the database has."""
    try:
        return await sync_to_async(describe, thread_sensitive=False)(source, **options)
    except SourceError as error:
        raise _refusal(error) from error


async def _looked_at_again(model: Model, changes: dict[str, Any]) -> Described:
    return await _looked_at(
        model.source,
        kind=model.source_kind,
        revision=changes["revision"],
        trust_remote_code=changes.get("trust_remote_code", model.trust_remote_code),
        allow_pickle=changes.get("allow_pickle", model.allow_pickle),
    )


def _refusal(error: SourceError) -> ApiError:
    return from_code(error.code, error.message, {"field": error.field} if error.field else {})
