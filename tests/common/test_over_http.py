"""What only a real connection shows: chunked bodies, broken requests, and what the web server adds."""

import json
import socket
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx
import pytest

from tests.running_server import RunningServer

LOGIN = "/api/v1/auth/login"


@pytest.fixture
def client(echo_server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=echo_server.url, headers={"X-API-Key": echo_server.api_key}) as client:
        yield client


def test_a_chunked_body_is_read(client: httpx.Client, echo_server: RunningServer) -> None:
    body = json.dumps({"username": "admin", "password": echo_server.admin_password}).encode()
    pieces = (body[start : start + 7] for start in range(0, len(body), 7))
    response = client.post(LOGIN, content=pieces, headers={"Content-Type": "application/json"})
    assert response.status_code == 200
    assert response.json()["user"]["role"] == "administrator"


@pytest.mark.parametrize("is_chunked", [False, True])
def test_too_large_a_body_is_413(client: httpx.Client, is_chunked: bool) -> None:
    body = b" " * (4 * 1024 * 1024 + 1)
    content = iter([body]) if is_chunked else body
    response = client.post(LOGIN, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "PAYLOAD_TOO_LARGE"


def test_the_status_line_names_what_the_status_means(client: httpx.Client) -> None:
    asked = {
        400: client.post("/api/v1/infer", json={}),
        404: client.get("/api/v1/nowhere"),
        405: client.delete("/api/v1/infer"),
        415: client.post("/api/v1/infer", content=b"x", headers={"Content-Type": "text/plain"}),
    }
    for status, response in asked.items():
        assert (response.status_code, response.reason_phrase) == (status, HTTPStatus(status).phrase)


@pytest.mark.parametrize("path", ["/api/v1/models", "/api/v1/models/"])
def test_both_forms_of_a_path_work_without_a_redirect(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.json()["loaded_models"] == 1
    assert int(response.headers["X-RateLimit-Remaining"]) < int(response.headers["X-RateLimit-Limit"]) == 5000


def test_head_has_headers_and_no_body(client: httpx.Client) -> None:
    response = client.head("/api/v1/models")
    assert response.status_code == 200
    assert response.content == b""
    assert response.headers["X-API-Version"] == "1.0"


def test_an_unknown_method_is_405(client: httpx.Client) -> None:
    response = client.request("BREW", "/api/v1/models")
    assert response.status_code == 405
    assert response.json()["error"]["code"] == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize(
    "request_text",
    [
        "GET /api/v1/models HTTP/1.1\r\nHost: no such host\r\n\r\n",
        "GET /api/v1/models\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
        "nonsense\r\n\r\n",
    ],
)
def test_a_broken_request_costs_nobody_else_anything(
    client: httpx.Client, echo_server: RunningServer, request_text: str
) -> None:
    address = urlsplit(echo_server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(request_text.encode())
        assert connection.recv(4096).split(b"\r\n")[0].split()[1] in {b"400", b"401", b"404"}
    assert client.get("/health/live").status_code == 200


def test_pages_and_their_files_are_served(client: httpx.Client) -> None:
    page = client.get("/api/v1/docs", headers={"Accept": "text/html"})
    assert "swagger-ui" in page.text
    for path in ("/sign-in", "/admin/login/", "/static/dashboard/dashboard.css", "/static/llama_gpu_site/docs.js"):
        assert client.get(path).status_code == 200
    assert client.get("/static/nothing.css").status_code == 404
    assert client.get("/static/../manage.py").status_code == 404
    stale = client.get("/static/dashboard/dashboard.css")
    fresh = client.get("/static/dashboard/dashboard.css", headers={"If-None-Match": stale.headers["ETag"]})
    assert (fresh.status_code, fresh.content) == (304, b"")


def test_a_model_that_ran_shows_what_was_measured(client: httpx.Client) -> None:
    answer = client.post("/api/v1/infer", json={"text": "one two three", "max_tokens": 4})
    assert answer.status_code == 200
    model = client.get("/api/v1/models/default").json()["model"]
    assert (model["id"], model["loaded"], model["backend"]) == ("echo", True, "cpu")
    assert model["deployments"][0]["state"] == "loaded"
