"""The model doors."""

from asgiref.sync import sync_to_async
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.doors import Door
from common.envelope import success
from models_mgmt.live import with_workers
from models_mgmt.performance import performance_of
from models_mgmt.presence import alive_workers
from models_mgmt.selectors import find_models, resolve_model
from models_mgmt.serializers import (
    ModelResponse,
    ModelsQuery,
    ModelsResponse,
    detail_body,
    summary_body,
)


class Models(Door):
    limit_group = "models"

    @extend_schema(operation_id="list_models", tags=["Models"], parameters=[ModelsQuery], responses=ModelsResponse)
    async def get(self, request: Request) -> Response:
        """The models that can be used, and which of them are loaded."""
        query = ModelsQuery.parse(request.query_params.dict())
        rows = [model async for model in find_models(search=query.get("search", ""))]
        models = with_workers(rows, await alive_workers())
        if "loaded" in query:
            models = [model for model in models if model.is_loaded == query["loaded"]]
        return Response(
            success(
                models=[summary_body(model) for model in models],
                total_models=len(models),
                loaded_models=sum(model.is_loaded for model in models),
            )
        )


class ModelDetail(Door):
    limit_group = "models"

    @extend_schema(
        operation_id="get_model",
        tags=["Models"],
        parameters=[OpenApiParameter("model_id", str, OpenApiParameter.PATH, description='An id, or "default".')],
        responses=ModelResponse,
    )
    async def get(self, request: Request, model_id: str) -> Response:
        """Everything that is known about one model."""
        row = await sync_to_async(resolve_model)(model_id)
        (model,) = with_workers([row], await alive_workers())
        performance = await sync_to_async(performance_of)(row.id)
        return Response(success(model=detail_body(model, performance)))
