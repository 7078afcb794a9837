"""The doors of loads, unloads and workers."""

from asgiref.sync import sync_to_async
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.audit import calling
from accounts.doors import Door
from common.byte_sizes import format_bytes
from common.envelope import success
from common.errors import BackendUnavailable, InsufficientMemory
from models_mgmt import deployments
from models_mgmt.deployment_serializers import (
    FitBody,
    FitResponse,
    LoadBody,
    LoadResponse,
    UnloadQuery,
    UnloadResponse,
    WorkersResponse,
    load_options,
    loaded_model_body,
    lost_worker_body,
    placement_body,
    worker_body,
)
from models_mgmt.deployments import Requested
from models_mgmt.models import Deployment, Model
from models_mgmt.presence import alive_workers, lost_workers
from models_mgmt.selectors import resolve_model

MODEL_ID = OpenApiParameter("model_id", str, OpenApiParameter.PATH, description='An id, an alias, or "default".')


class LoadModel(Door):
    permission = "admin"
    limit_group = "models"

    @extend_schema(
        operation_id="load_model",
        tags=["Models"],
        parameters=[MODEL_ID],
        request=LoadBody,
        responses={
            200: LoadResponse,
            202: OpenApiResponse(LoadResponse, description="With async: the load has been asked for."),
        },
    )
    async def post(self, request: Request, model_id: str) -> Response:
        """Load a model, and answer when it is loaded.

        It goes where it fits best, or where it is asked to. A model that is loaded already stays as it is.
        """
        body = LoadBody.parse(request.data)
        model = await sync_to_async(resolve_model)(model_id)
        asked = await sync_to_async(deployments.request_load)(
            model, load_options(body), actor=calling(self.caller, request)
        )
        if asked.ids and (body["async"] or _prefers_async(request)):
            return Response(await _answer("Model is being loaded", model, asked), status=202)
        await deployments.wait_loaded(asked.ids)
        return Response(
            await _answer("Model loaded successfully" if asked.ids else "Model is already loaded", model, asked)
        )


class FitModel(Door):
    limit_group = "models"

    @extend_schema(
        operation_id="fit_model", tags=["Models"], parameters=[MODEL_ID], request=FitBody, responses=FitResponse
    )
    async def post(self, request: Request, model_id: str) -> Response:
        """Whether a model would fit if it were loaded like this now, and where it would go.

        Nothing is loaded. The parameters are those of a load.
        """
        body = FitBody.parse(request.data)
        model = await sync_to_async(resolve_model)(model_id)
        try:
            placements = await sync_to_async(deployments.preview)(model, load_options(body))
        except (InsufficientMemory, BackendUnavailable) as error:
            refusal = {"code": error.code, "reason": error.message, "details": error.details}
            return Response(success(fits=False, **refusal, placements=[]))
        told = [placement_body(placement) for placement in placements]
        return Response(success(fits=True, code=None, reason=None, details={}, placements=told))


class UnloadModel(Door):
    permission = "admin"
    limit_group = "models"

    @extend_schema(
        operation_id="unload_model", tags=["Models"], parameters=[MODEL_ID, UnloadQuery], responses=UnloadResponse
    )
    async def delete(self, request: Request, model_id: str) -> Response:
        """Unload a model, and answer when its memory is free.

        Requests that run are let end first; with force they fail.
        """
        query = UnloadQuery.parse(request.query_params.dict())
        model = await sync_to_async(resolve_model)(model_id)
        done = await deployments.unload(
            model, force=query["force"], device=query["device"], actor=calling(self.caller, request)
        )
        return Response(
            success(
                message="Model unloaded successfully" if done.was_loaded else "Model was not loaded",
                freed_memory=format_bytes(done.freed_bytes),
                freed_memory_bytes=done.freed_bytes,
            )
        )


class Workers(Door):
    limit_group = "system"

    @extend_schema(operation_id="list_workers", tags=["System"], responses=WorkersResponse)
    async def get(self, request: Request) -> Response:
        """The workers of all hosts, with their devices and the models that they have.

        One that went silent is listed as lost for an hour, or until its device has another.
        """
        alive = await alive_workers()
        lost = await lost_workers(alive)
        return Response(
            success(
                workers=[*map(worker_body, alive), *map(lost_worker_body, lost)],
                total_workers=len(alive) + len(lost),
                running_workers=sum(not worker.draining for worker in alive),
            )
        )


def _prefers_async(request: Request) -> bool:
    return "respond-async" in request.headers.get("Prefer", "")


async def _answer(message: str, model: Model, asked: Requested) -> dict[str, object]:
    rows = [row async for row in Deployment.objects.filter(pk__in=[row.pk for row in asked.deployments])]
    places = {(row.host, row.device) for row in rows}
    reports = [
        report
        for worker in await alive_workers()
        if (worker.host, worker.device) in places and (report := worker.deployment(model.pk)) is not None
    ]
    return success(message=message, model=loaded_model_body(model, rows, reports))
