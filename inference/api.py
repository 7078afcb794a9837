"""The doors of section 3: infer, batch_infer, stream_infer."""

import time
from typing import Any

import msgspec
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from accounts.doors import Door
from common.direct_body import direct_body
from common.envelope import success, timestamp
from common.errors import InvalidInput
from common.passage import arrival
from common.request_id import request_id
from inference import services
from inference.bodies import InferRequest, parse_batch, parse_infer
from inference.messages import Kind
from inference.openapi import describe_batch_infer, describe_infer, describe_stream_infer
from inference.services import Origin

_encode = msgspec.json.Encoder().encode


class InferenceDoor(Door):
    """What the three have in common."""

    permission = "write"
    kind: Kind

    def _origin(self) -> Origin:
        return Origin(caller=self.caller, request_id=request_id.get(), kind=self.kind, headers=self.headers)

    async def _stream(self, body: InferRequest) -> StreamingHttpResponse:
        response_body = direct_body(getattr(self.request._request, "scope", {}))
        events = await services.stream_infer(request=body, origin=self._origin(), body=response_body)
        return StreamingHttpResponse(
            events,
            content_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )


class InferView(InferenceDoor):
    limit_group = "infer"
    kind = "infer"

    @describe_infer
    async def post(self, request: Request) -> HttpResponseBase:
        """Complete one prompt."""
        started = arrival()
        _refuse_deferral(request)
        body = parse_infer(request.data)
        if body.stream:
            return await self._stream(body)
        result = await services.infer(request=body, origin=self._origin())
        metadata = {"request_id": request_id.get(), "timestamp": timestamp(), "processing_time": _since(started)}
        return _json(success(result=result, metadata=metadata))


class StreamInferView(InferenceDoor):
    limit_group = "stream_infer"
    kind = "stream_infer"

    @describe_stream_infer
    async def post(self, request: Request) -> HttpResponseBase:
        """Complete one prompt, and send the text as it is made."""
        _refuse_deferral(request)
        body = parse_infer(request.data)
        if body.stream is False:
            raise InvalidInput("This address always streams; infer does not.", field="stream")
        return await self._stream(body)


class BatchInferView(InferenceDoor):
    limit_group = "batch_infer"
    kind = "batch_infer"

    @describe_batch_infer
    async def post(self, request: Request) -> HttpResponseBase:
        """Complete several prompts at once; a bad one fails alone."""
        started = arrival()
        _refuse_deferral(request)
        body = parse_batch(request.data)
        batch = await services.batch_infer(request=body, origin=self._origin())
        metadata = {
            "batch_id": "batch_" + request_id.get().removeprefix("req_"),
            "request_id": request_id.get(),
            "timestamp": timestamp(),
            "total_processing_time": _since(started),
            "items_processed": len(batch.results),
            "items_failed": batch.failed,
            "backend": batch.backend or None,
        }
        return _json(success(results=batch.results, metadata=metadata))


def _refuse_deferral(request: Request) -> None:
    if "respond-async" in request.headers.get("Prefer", ""):
        raise InvalidInput("Asynchronous jobs are not available yet.", field="async")


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 4)


def _json(body: dict[str, Any]) -> HttpResponse:
    return HttpResponse(_encode(body), content_type="application/json")
