"""The API speaks JSON; what a client says it accepts does not turn an answer into an error."""

from collections.abc import Iterable
from typing import Any

from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from common.errors import UnsupportedMediaType


class JSONNegotiation(BaseContentNegotiation):
    """Always the first renderer; the parser whose media type the body claims to be."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser:
        claimed = (request.content_type or "").partition(";")[0].strip().lower()
        known = {parser.media_type: parser for parser in parsers}
        if claimed not in known:
            raise UnsupportedMediaType(details={"supported": list(known)})
        return known[claimed]

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[Any, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type or "application/json"
