"""The doors of section 3: infer, batch_infer, stream_infer."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

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
from inference.bodies import BatchRequest, InferRequest, parse_batch, parse_infer
from inference.deferral import Deferred, defer, wants_deferral
from inference.messages import Kind
from inference.openapi import describe_batch_infer, describe_infer, describe_stream_infer
from inference.services import Origin
from models_mgmt.selectors import aresolve_model

_ABOUT_THE_ANSWER = ("async", "stream", "webhook_url")
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

    def _is_deferred(self, request: Request, body: InferRequest | BatchRequest) -> bool:
        if wants_deferral(request, asked=body.run_async):
            return True
        if body.webhook_url:
            raise InvalidInput("Only of the end of a job can somebody be told: set async.", field="webhook_url")
        return False

    async def _deferred(
        self, body: InferRequest | BatchRequest, items: Sequence[tuple[str, dict[str, Any]]], defaults: dict[str, Any]
    ) -> HttpResponse:
        job = await defer(
            Deferred(
                caller=self.caller,
                kind=self.kind,
                model=body.model,
                items=items,
                defaults=defaults,
                webhook_url=body.webhook_url,
            )
        )
        self.headers["Location"] = f"/api/v1/jobs/{job['id']}"
        self.headers["Preference-Applied"] = "respond-async"
        metadata = {"request_id": request_id.get(), "timestamp": timestamp()}
        return _json(success(job=job, metadata=metadata), status=202)


class InferView(InferenceDoor):
    limit_group = "infer"
    kind = "infer"

    @describe_infer
    async def post(self, request: Request) -> HttpResponseBase:
        """Complete one prompt."""
        started = arrival()
        body = parse_infer(request.data)
        if self._is_deferred(request, body):
            if body.stream:
                raise InvalidInput("What is answered later can't be streamed.", field="stream")
            model = await aresolve_model(body.model)
            services.check_fits(model, body.prompt)
            defaults, item = _parted(_body_of(request), ("model", "timeout"))
            return await self._deferred(body, [("0", item)], defaults)
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
        body = parse_infer(request.data)
        if self._is_deferred(request, body):
            raise InvalidInput("This address always streams; infer can answer later.", field="async")
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
        body = parse_batch(request.data)
        if self._is_deferred(request, body):
            await aresolve_model(body.model)
            inputs, defaults = _parted(_body_of(request), ("inputs",))
            ids = [item_id for item_id, _ in body.items]
            return await self._deferred(body, list(zip(ids, inputs["inputs"], strict=True)), defaults)
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


def _body_of(request: Request) -> dict[str, Any]:
    """The body, once it has been checked."""
    return cast("dict[str, Any]", request.data)


def _parted(data: Mapping[str, Any], names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The named fields of a body, and the others; without those that only say how it is answered."""
    left = {name: value for name, value in data.items() if name not in _ABOUT_THE_ANSWER}
    return {name: left.pop(name) for name in names if name in left}, left


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 4)


def _json(body: dict[str, Any], *, status: int = 200) -> HttpResponse:
    return HttpResponse(_encode(body), content_type="application/json", status=status)
