"""The health doors. They need no credentials and tell nothing that is not for everybody."""

from django.conf import settings
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.doors import Door
from common.envelope import timestamp
from monitoring.health import check_all, overall
from monitoring.serializers import HealthResponse, LiveResponse

_HEALTH_RESPONSES = {200: HealthResponse, 503: OpenApiResponse(HealthResponse, "Requests can't be served.")}


class Health(Door):
    permission = None

    @extend_schema(operation_id="get_health", tags=["Health"], responses=_HEALTH_RESPONSES)
    async def get(self, request: Request) -> Response:
        """Whether requests can be served: 200, or 503 with the check that failed."""
        checks = await check_all()
        status = overall(checks)
        return Response(
            _body(status) | {"checks": {name: check.body for name, check in checks.items()}},
            status=503 if status == "unhealthy" else 200,
        )


class Ready(Health):
    @extend_schema(operation_id="get_readiness", tags=["Health"], responses=_HEALTH_RESPONSES)
    async def get(self, request: Request) -> Response:
        """For load balancers: the same checks as /health."""
        return await super().get(request)


class Live(Door):
    permission = None

    @extend_schema(operation_id="get_liveness", tags=["Health"], responses=LiveResponse)
    async def get(self, request: Request) -> Response:
        """Whether this web process answers at all."""
        return Response(_body("healthy"))


def _body(status: str) -> dict[str, object]:
    return {
        "success": status != "unhealthy",
        "status": status,
        "version": settings.VERSION,
        "timestamp": timestamp(),
    }
