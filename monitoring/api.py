"""The health doors. They need no credentials and tell nothing that is not for everybody."""

from django.conf import settings
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.doors import Door
from common.envelope import timestamp
from monitoring.health import check_all
from monitoring.serializers import HealthResponse, LiveResponse

_HEALTH_RESPONSES = {200: HealthResponse, 503: OpenApiResponse(HealthResponse, "Something does not answer.")}


class Health(Door):
    permission = None

    @extend_schema(operation_id="get_health", tags=["Health"], responses=_HEALTH_RESPONSES)
    async def get(self, request: Request) -> Response:
        """Whether requests can be served: 200, or 503 with the check that failed."""
        checks = await check_all()
        is_healthy = all(check.status == "ok" for check in checks.values())
        return Response(
            _body(is_healthy) | {"checks": {name: check.body for name, check in checks.items()}},
            status=200 if is_healthy else 503,
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
        return Response(_body(True))


def _body(is_healthy: bool) -> dict[str, object]:
    return {
        "success": is_healthy,
        "status": "healthy" if is_healthy else "unhealthy",
        "version": settings.VERSION,
        "timestamp": timestamp(),
    }
