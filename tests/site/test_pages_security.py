"""What protects the pages that browsers show: headers, cookies, CSRF, hosts, and throttled sign-ins."""

import pytest
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from accounts.models import Role, User
from llama_gpu_site.supervisor.instance import free_port

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("clean_redis")]
PASSWORD = "correct horse battery"
LOGIN = "/admin/login/"
HTTPS = {"X-Forwarded-Proto": "https"}


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password=PASSWORD, role=Role.ADMINISTRATOR)


def sign_in(client: Client, username: str = "ada", password: str = PASSWORD, **headers: str) -> int:
    fields = {"username": username, "password": password, "next": "/admin/"}
    return client.post(LOGIN, fields, headers=headers).status_code


def test_pages_have_security_headers() -> None:
    response = Client().get(LOGIN)
    assert response.status_code == 200
    assert response["X-Frame-Options"] == "DENY"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Referrer-Policy"] == "same-origin"
    assert response["Cross-Origin-Opener-Policy"] == "same-origin"
    policy = response["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy  # so that scripts come from this site alone, and none stands in a page
    assert "Strict-Transport-Security" not in response.headers


def test_a_form_without_its_token_is_refused(ada: User) -> None:
    client = Client(enforce_csrf_checks=True)
    assert sign_in(client) == 403
    page = client.get(LOGIN)
    token = page.context["csrf_token"]
    fields = {"username": "ada", "password": PASSWORD, "csrfmiddlewaretoken": token, "next": "/admin/"}
    assert client.post(LOGIN, fields).status_code == 302
    assert client.post(reverse("admin:logout")).status_code == 403
    evil = {"Origin": "https://evil.example"}
    assert client.post(reverse("admin:logout"), {"csrfmiddlewaretoken": token}, headers=evil).status_code == 403


def test_pages_of_an_unknown_host_are_refused() -> None:
    assert Client().get(LOGIN, headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.parametrize("proxies", [[], ["127.0.0.1"]])
def test_cookies_are_for_https_only_when_a_trusted_proxy_speaks_it(
    ada: User, settings: Settings, proxies: list[str]
) -> None:
    settings.TRUSTED_PROXIES = proxies
    client = Client()
    assert sign_in(client, **HTTPS) == 302
    session = client.cookies[settings.SESSION_COOKIE_NAME]
    assert session["httponly"]
    assert session["samesite"] == "Lax"
    assert bool(session["secure"]) is bool(proxies)


def test_with_tls_pages_are_redirected_and_remembered_and_the_api_is_not(settings: Settings) -> None:
    settings.TRUSTED_PROXIES = ["127.0.0.1"]
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_HSTS_SECONDS = 60
    plain = Client().get(LOGIN)
    assert (plain.status_code, plain["Location"]) == (301, f"https://testserver{LOGIN}")
    assert Client().get(LOGIN, headers=HTTPS)["Strict-Transport-Security"] == "max-age=60"
    assert Client().get("/api/v1/nothing").status_code == 404
    settings.TRUSTED_PROXIES = []
    assert Client().get(LOGIN, headers=HTTPS).status_code == 301  # anybody could say so


def test_sign_ins_are_throttled_by_username(ada: User, settings: Settings) -> None:
    settings.LOGIN_ATTEMPTS_PER_MINUTE = 3
    settings.TRUSTED_PROXIES = ["127.0.0.1"]
    names = ("ada", "Ada", "ADA", "ada")
    tries = [sign_in(Client(), name, "wrong", **{"X-Forwarded-For": f"192.0.2.{at}"}) for at, name in enumerate(names)]
    assert tries == [200, 200, 200, 429]
    assert sign_in(Client(), "ada", PASSWORD, **{"X-Forwarded-For": "192.0.2.9"}) == 429


def test_sign_ins_are_throttled_by_address_together_with_those_of_the_api(settings: Settings) -> None:
    settings.LOGIN_ATTEMPTS_PER_MINUTE = 3
    client = Client()
    assert [sign_in(client, f"user{number}", "wrong") for number in range(2)] == [200, 200]
    body = {"username": "user3", "password": "wrong"}
    assert client.post("/api/v1/auth/login", body, content_type="application/json").status_code == 401
    response = client.post(LOGIN, {"username": "user4", "password": "wrong"})
    assert response.status_code == 429
    assert 0 < int(response["Retry-After"]) <= 60
    assert b"Too many attempts" in response.content
    assert client.post("/api/v1/auth/login", body, content_type="application/json").status_code == 429
    assert client.get(LOGIN).status_code == 200


def test_a_throttled_sign_in_does_not_hash(ada: User, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.LOGIN_ATTEMPTS_PER_MINUTE = 1
    assert sign_in(Client(), password="wrong") == 200
    monkeypatch.setattr(Argon2PasswordHasher, "verify", lambda *_: pytest.fail("it did"))
    assert sign_in(Client()) == 429


def test_an_address_can_not_be_made_up(settings: Settings) -> None:
    settings.LOGIN_ATTEMPTS_PER_MINUTE = 1
    tries = [sign_in(Client(), f"u{at}", "wrong", **{"X-Forwarded-For": f"192.0.2.{at}"}) for at in range(2)]
    assert tries == [200, 429]


def test_without_redis_nobody_signs_in(ada: User, settings: Settings) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    assert sign_in(Client()) == 503
