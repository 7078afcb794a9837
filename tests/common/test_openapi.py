import json
import re
from typing import Any

import pytest
from django.core.management import call_command
from django.test import AsyncClient
from django.urls import URLPattern, URLResolver, get_resolver

from llama_gpu_site.documentation import document

HIDDEN = {"/api/v1/docs", "/api/v1/schema"}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    result: dict[str, Any] = json.loads(document())
    return result


def routes(patterns: list[Any], start: str = "/") -> set[str]:
    found: set[str] = set()
    for entry in patterns:
        if isinstance(entry, URLResolver):
            found |= routes(entry.url_patterns, start + str(entry.pattern))
        elif isinstance(entry, URLPattern):
            found.add(start + str(entry.pattern))
    return {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route) for route in found}


def test_the_generator_has_nothing_to_warn_of() -> None:
    call_command("spectacular", "--fail-on-warn", "--validate", "--file", "/dev/null")


def test_every_api_address_is_described(schema: dict[str, Any]) -> None:
    addresses = {route for route in routes(get_resolver().url_patterns) if route.startswith("/api/")}
    assert addresses - HIDDEN == {path for path in schema["paths"] if path.startswith("/api/")}


def test_every_operation_tells_its_failures_headers_and_credentials(schema: dict[str, Any]) -> None:
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation.get("description"), where
            assert {"400", "500"} <= set(operation["responses"]), where
            needs_credential = operation["security"] != [{}]
            assert needs_credential == ("403" in operation["responses"]), where
            for response in operation["responses"].values():
                assert {"X-Request-ID", "X-API-Version"} <= set(response["headers"]), where


async def test_a_browser_gets_the_page_and_others_the_document(clean_redis: str) -> None:
    client = AsyncClient()
    page = await client.get("/api/v1/docs", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page["Content-Type"].startswith("text/html")
    assert b"//cdn" not in page.content
    assert b"https://" not in page.content
    for path, accept in (
        ("/api/v1/docs", "application/json"),
        ("/api/v1/docs/", "application/vnd.oai.openapi"),
        ("/api/v1/docs", "*/*"),
        ("/api/v1/schema", "text/html"),
    ):
        response = await client.get(path, headers={"Accept": accept})
        assert response.status_code == 200
        assert json.loads(response.content)["openapi"].startswith("3.")


@pytest.mark.parametrize("name", ["swagger-ui.css", "swagger-ui-bundle.js"])
async def test_the_pages_files_are_served_from_here(name: str) -> None:
    response = await AsyncClient().get(f"/static/drf_spectacular_sidecar/swagger-ui-dist/{name}")
    assert response.status_code == 200
    assert len(response.content) > 10_000
