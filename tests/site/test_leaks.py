"""After a busy run no key, password, token or session stands anywhere: logs, events, errors, database, files, admin."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
import redis

from tests.running_server import RunningServer

PASSWORD, WRONG, NEW = "first-password-5813", "wrong-password-2134", "second-password-5589"
GUESS = "lgpu_guessguess_0123456789abcdefghijklmnopqrstuv"
LOGIN = "/admin/login/"
BODY = {"text": "a b c", "max_tokens": 3}


class BusyRun:
    """Uses every door that takes or gives a secret, well and badly, and keeps what was secret and every answer."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.secrets = {server.api_key, server.admin_password, PASSWORD, WRONG, NEW, GUESS}
        self.answers: list[httpx.Response] = []  # all but those that rightly hold a new secret
        with httpx.Client(base_url=server.url, timeout=30) as client:
            self._client = client
            self._users_and_keys()
            self._inference()
            self._bad_requests()
        with httpx.Client(base_url=server.url, timeout=30, follow_redirects=True) as client:
            self.pages = self._admin_site(client)

    def call(self, method: str, path: str, credential: str, body: Any = None, status: int = 200) -> httpx.Response:
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        answer = self._client.request(method, f"/api/v1/{path}", json=body, headers=headers)
        assert answer.status_code == status, (path, answer.text)
        return answer

    def _keep(self, answer: httpx.Response, *fields: str) -> list[str]:
        secrets = [str(answer.json()[field]) for field in fields]
        self.secrets.update(secrets)
        return secrets

    def _users_and_keys(self) -> None:
        admin = self.server.api_key
        user = {"username": "leaky", "password": PASSWORD, "role": "operator"}
        self.answers.append(self.call("POST", "users", admin, user, 201))
        session = self.call("POST", "auth/login", "", {"username": "leaky", "password": PASSWORD})
        token, refresh = self._keep(session, "token", "refresh_token")
        bad = self.call("POST", "auth/login", "", {"username": "leaky", "password": WRONG}, 401)
        made = self.call("POST", "keys", token, {"name": "first", "permissions": ["read", "write"]}, 201)
        (self.key,) = self._keep(made, "key")
        number = made.json()["api_key"]["id"]
        self._keep(self.call("POST", f"keys/{number}/rotate", token, {"grace_seconds": 60}), "key")
        self._keep(self.call("POST", "auth/refresh", "", {"refresh_token": refresh}), "token")
        renewed = self.call("POST", "auth/password", token, {"current_password": PASSWORD, "new_password": NEW})
        token, refresh = self._keep(renewed, "token", "refresh_token")
        self.answers += [bad, self.call("POST", "auth/logout", token, {"refresh_token": refresh})]
        self.answers += [self.call("GET", path, admin) for path in ("keys", "users", "audit", "usage", "auth/me")]

    def _inference(self) -> None:
        for path, body in (("infer", BODY), ("stream_infer", BODY), ("batch_infer", {"inputs": [BODY, {"text": ""}]})):
            self.answers.append(self.call("POST", path, self.key, body))
        self.answers.append(self.call("POST", "infer", self.key, {"text": "[[fail]]"}, 500))

    def _bad_requests(self) -> None:
        get = self._client.get
        self.answers += [
            self.call("GET", "models", GUESS, status=401),
            self.call("GET", "models", WRONG, status=401),
            get("/api/v1/models", headers={"X-API-Key": GUESS}),
            get("/api/v1/models", headers={"Authorization": f"Basic {WRONG}"}),
            get("/api/v1/models", params={"search": self.key}, headers={"X-API-Key": self.key, "X-API-Version": "9"}),
            get("/api/v1/nothing", params={"key": self.key}, headers={"X-API-Key": self.key}),
            self.call("PUT", "infer", self.key, {"password": WRONG}, 405),
            self.call("POST", "infer", self.key, {"text": 5, "api_key": self.key}, 400),
            self.call("POST", "auth/login", "", {"username": "leaky", "password": WRONG, "otp": WRONG}, 400),
            self.call("POST", "auth/refresh", "", {"refresh_token": GUESS}, 401),
            self._client.post("/api/v1/infer", content=b"{" + self.key.encode(), headers={"X-API-Key": self.key}),
        ]

    def _admin_site(self, client: httpx.Client) -> dict[str, str]:
        """Sign in and look at every page that the admin site links to, rows of its lists included."""
        for password in (WRONG, self.server.admin_password):
            fields = {"username": "admin", "password": password, "csrfmiddlewaretoken": self.form_token(client)}
            answer = client.post(LOGIN, data={**fields, "next": "/admin/"})
        assert answer.url.path == "/admin/", answer.text
        self.secrets.add(client.cookies["sessionid"])
        seen: dict[str, str] = {}
        paths = ["/admin/"]
        while paths:
            path = paths.pop()
            if path in seen or "/logout" in path or "/delete/" in path:
                continue
            page = client.get(path)
            assert page.status_code == 200, path
            seen[path] = page.text
            paths += re.findall(r'href="(/admin/[^"?#]*)', page.text)
        assert len(seen) > 10
        return seen

    @staticmethod
    def form_token(client: httpx.Client) -> str:
        found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', client.get(LOGIN).text)
        assert found is not None
        return found[1]

    def found_in(self, text: str | bytes) -> list[str]:
        data = text.encode() if isinstance(text, str) else text
        return [secret for secret in self.secrets if secret.encode() in data]


@pytest.fixture(scope="module")
def run(echo_server: RunningServer) -> BusyRun:
    return BusyRun(echo_server)


def test_the_run_was_busy(run: BusyRun) -> None:
    assert len(run.secrets) >= 13
    assert run.found_in(run.key) == [run.key]


def test_not_in_the_logs(run: BusyRun) -> None:
    assert "infer completed" in run.server.log()
    assert run.found_in(run.server.log()) == []


def test_not_in_errors_and_other_answers(run: BusyRun) -> None:
    assert {answer.status_code for answer in run.answers} >= {200, 400, 401, 404, 405, 500}
    for answer in run.answers:
        assert run.found_in(answer.content + str(answer.headers).encode()) == [], answer.url.path


def test_not_in_the_database(run: BusyRun) -> None:
    with closing(sqlite3.connect(run.server.data_dir / "llama_gpu.sqlite3")) as database:
        dump = "\n".join(database.iterdump())
    assert "leaky" in dump
    assert run.found_in(dump) == []


def test_not_in_any_file_of_the_server(run: BusyRun) -> None:
    files = [path for path in run.server.data_dir.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:  # the database with its journal, and whatever Redis was ever told
        assert run.found_in(path.read_bytes()) == [], path.name


def test_not_in_events_and_whatever_else_is_in_redis(run: BusyRun) -> None:
    with redis.Redis.from_url(run.server.redis_url) as client:
        entries = dict(everything_in(client))
    assert any(b"limit" in name for name in entries)
    for name, content in entries.items():
        assert run.found_in(name + content) == [], name


def everything_in(client: redis.Redis) -> Iterator[tuple[bytes, bytes]]:
    readers = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda name: client.lrange(name, 0, -1),
        b"set": client.smembers,
        b"zset": lambda name: client.zrange(name, 0, -1, withscores=True),
        b"stream": client.xrange,
    }
    for name in client.scan_iter(count=1000):
        kind = client.type(name)
        if kind != b"none":  # expired meanwhile
            yield name, repr(readers[kind](name)).encode()  # type: ignore[index]


def test_not_on_the_admin_site(run: BusyRun) -> None:
    for path, page in run.pages.items():
        assert run.found_in(page) == [], path


def test_a_session_ends_with_its_sign_out(run: BusyRun) -> None:
    """Sessions are found by what the cookie holds, although only a hash of it is kept."""
    with httpx.Client(base_url=run.server.url, timeout=30) as client:
        fields = {"username": "admin", "password": run.server.admin_password, "next": "/admin/"}
        client.post(LOGIN, data={**fields, "csrfmiddlewaretoken": run.form_token(client)})
        page = client.get("/admin/")
        assert page.status_code == 200
        cookie = client.cookies["sessionid"]
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token is not None
        assert client.post("/admin/logout/", data={"csrfmiddlewaretoken": token[1]}).status_code == 200
        assert httpx.get(f"{run.server.url}/admin/", cookies={"sessionid": cookie}).status_code == 302
