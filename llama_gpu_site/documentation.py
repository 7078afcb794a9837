"""The OpenAPI document and its page."""

from functools import cache
from typing import Any, cast

import msgspec
from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.template.loader import render_to_string
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from accounts.doors import Door

MEDIA_TYPE = "application/vnd.oai.openapi+json"
# Swagger UI sets styles on elements and draws its icons from data: addresses.
PAGE_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"


@extend_schema(exclude=True)
class ApiSchema(Door):
    permission = None

    async def get(self, request: Request) -> HttpResponse:
        """The OpenAPI 3 document."""
        return await _document_response()


@extend_schema(exclude=True)
class ApiDocs(Door):
    permission = None

    async def get(self, request: Request) -> HttpResponse:
        """Swagger UI for a browser, the OpenAPI document for any other client."""
        if "text/html" not in request.headers.get("Accept", ""):
            response = await _document_response()
        else:
            page = await sync_to_async(render_to_string)("llama_gpu_site/docs.html")
            response = HttpResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})
        response.headers["Vary"] = "Accept"
        return response


async def _document_response() -> HttpResponse:
    return HttpResponse(await sync_to_async(document)(), content_type=MEDIA_TYPE)


@cache
def document() -> bytes:
    """The OpenAPI document as JSON; made once per process."""
    generator = cast(Any, SchemaGenerator)()
    return msgspec.json.encode(generator.get_schema(request=None, public=True), enc_hook=str)
