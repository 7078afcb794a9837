"""A change acts within a second in every web process of a running server."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.running_server import RunningServer, running_server

PROCESSES = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(
        tmp_path_factory.mktemp("several"), LLAMA_GPU_DEFAULT_MODEL="echo", LLAMA_GPU_WEB_PROCESSES=str(PROCESSES)
    ) as running:
        yield running


class Api:
    """Calls on connections of their own, which the processes share out among themselves."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server

    def call(self, method: str, path: str, credential: str = "", **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {credential or self.server.api_key}"}
        return httpx.request(method, f"{self.server.url}/api/v1{path}", headers=headers, json=body or None, timeout=30)

    def statuses(self, credential: str, path: str) -> set[int]:
        return {self.call("GET", path, credential).status_code for _ in range(8 * PROCESSES)}

    def user_with_key(self, name: str, role: str, *permissions: str) -> tuple[str, int]:
        self.call("POST", "/users", username=name, role=role, password="quite a long one")
        made = self.call("POST", "/keys", name=name, owner=name, permissions=list(permissions)).json()
        return made["key"], made["api_key"]["id"]

    def log_in(self, name: str) -> dict[str, str]:
        tokens: dict[str, str] = self.call("POST", "/auth/login", username=name, password="quite a long one").json()
        return tokens


@pytest.fixture
def api(server: RunningServer) -> Api:
    return Api(server)


def assert_it_acts(api: Api, credential: str, path: str, change: tuple[str, str, dict[str, Any]], after: int) -> None:
    """Every process knows the credential; a second after the change every one knows better."""
    assert api.statuses(credential, path) == {200}
    method, where, body = change
    assert api.call(method, where, **body).status_code == 200
    time.sleep(1)
    assert api.statuses(credential, path) == {after}


def test_a_revocation(api: Api) -> None:
    key, number = api.user_with_key("revoked", "viewer", "read")
    assert_it_acts(api, key, "/models", ("DELETE", f"/keys/{number}", {}), 401)


def test_a_narrowing(api: Api) -> None:
    key, number = api.user_with_key("narrowed", "administrator", "admin")
    assert_it_acts(api, key, "/users", ("PATCH", f"/keys/{number}", {"permissions": ["write"]}), 403)


def test_a_role_change(api: Api) -> None:
    key, _ = api.user_with_key("demoted", "administrator", "admin")
    assert_it_acts(api, key, "/users", ("PATCH", "/users/demoted", {"role": "viewer"}), 403)


def test_a_disabled_owner(api: Api) -> None:
    key, _ = api.user_with_key("disabled", "viewer", "read")
    assert_it_acts(api, key, "/models", ("PATCH", "/users/disabled", {"active": False}), 401)


def test_a_rotation_without_grace(api: Api) -> None:
    key, number = api.user_with_key("rotated", "viewer", "read")
    assert_it_acts(api, key, "/models", ("POST", f"/keys/{number}/rotate", {"grace_seconds": 0}), 401)


def test_a_new_password_ends_tokens(api: Api) -> None:
    api.user_with_key("renewed", "viewer", "read")
    token = api.log_in("renewed")["token"]
    change = ("PUT", "/users/renewed/password", {"password": "another long one"})
    assert_it_acts(api, token, "/auth/me", change, 401)


def test_a_logout_ends_the_access_tokens_of_its_session_alone(api: Api) -> None:
    api.user_with_key("leaving", "viewer", "read")
    session, other = api.log_in("leaving"), api.log_in("leaving")
    renewed = api.call("POST", "/auth/refresh", refresh_token=session["refresh_token"]).json()["token"]
    for token in (session["token"], renewed, other["token"]):
        assert api.statuses(token, "/auth/me") == {200}
    # Without a refresh token it is the session of the access token that ends.
    headers = {"Authorization": f"Bearer {session['token']}"}
    answer = httpx.post(f"{api.server.url}/api/v1/auth/logout", headers=headers, json={}, timeout=30)
    assert answer.status_code == 200
    time.sleep(1)
    assert [api.statuses(token, "/auth/me") for token in (session["token"], renewed, other["token"])] == [
        {401},
        {401},
        {200},
    ]
    assert api.call("POST", "/auth/refresh", refresh_token=session["refresh_token"]).status_code == 401
