"""A site with doors that only tell who came in."""

from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.doors import Door
from common.envelope import success


class Probe(Door):
    permission = {"GET": "read", "POST": "write", "PUT": "admin"}
    limit_group = "infer"

    async def get(self, request: Request) -> Response:
        return Response(success(identity=self.caller.identity))

    async def post(self, request: Request) -> Response:
        return Response(success(received=request.data))

    async def put(self, request: Request) -> Response:
        return Response(success())


class Crash(Door):
    permission = None

    async def get(self, request: Request) -> Response:
        raise RuntimeError("a secret of ours")


urlpatterns = [path("api/v1/probe", Probe.as_view()), path("api/v1/crash", Crash.as_view())]
