"""The doors of Prometheus' metrics and of one request's timeline."""

from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.doors import Door
from common.envelope import success
from common.errors import NotFound
from monitoring import prometheus, timelines
from monitoring.telemetry_serializers import RequestResponse, RequestsQuery, RequestsResponse

_TEXT = {(200, "text/plain"): OpenApiResponse(OpenApiTypes.STR, "Prometheus' text format, or OpenMetrics.")}


class PrometheusMetrics(Door):
    """settings.METRICS_ACCESS says who may enter."""

    permission = "read"
    limit_group = "system"

    async def _admit(self, request: Request) -> None:
        access = settings.METRICS_ACCESS
        if access == "off":
            raise NotFound
        rules: Any = self  # this request's own, instead of the class's
        if access == "open":
            rules.permission = rules.limit_group = None
        else:
            rules.permission = access
        await super()._admit(request)

    @extend_schema(operation_id="get_prometheus_metrics", tags=["Health"], responses=_TEXT)
    async def get(self, request: Request) -> HttpResponse:
        """Everything that is measured, for Prometheus."""
        page, content_type = await prometheus.exposition(request.headers.get("Accept", ""))
        return HttpResponse(page, content_type=content_type)


class Requests(Door):
    limit_group = "system"

    @extend_schema(
        operation_id="list_requests", tags=["System"], parameters=[RequestsQuery], responses=RequestsResponse
    )
    async def get(self, request: Request) -> Response:
        """Ended requests, newest first: one's own, for administrators everybody's. No text of them is kept."""
        query = RequestsQuery.parse(request.query_params.dict())
        return Response(await sync_to_async(self._page)(query))

    def _page(self, query: dict[str, Any]) -> dict[str, object]:
        records, next_cursor = timelines.listed(query, self.caller)
        return success(requests=[timelines.summarized(record) for record in records], next_cursor=next_cursor)


class RequestTimeline(Door):
    limit_group = "system"

    @extend_schema(operation_id="get_request", tags=["System"], responses=RequestResponse)
    async def get(self, request: Request, request_id: str) -> Response:
        """Where an ended request spent its time: one's own, for administrators everybody's."""
        return Response(success(request=await sync_to_async(self._found)(request_id)))

    def _found(self, request_id: str) -> dict[str, object]:
        return timelines.described(timelines.find(request_id, self.caller))
