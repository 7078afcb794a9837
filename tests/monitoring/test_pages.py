import pytest
from django.conf import settings
from django.test import Client

from accounts.models import Role, User
from monitoring.pages import PAGES, Page

pytestmark = pytest.mark.django_db
PASSWORD = "long-enough-0123"
# What each role finds: everything that its permissions allow.
SEEN = {Role.VIEWER: {"read"}, Role.OPERATOR: {"read", "write"}, Role.ADMINISTRATOR: {"read", "write", "admin"}}
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def signed_in(role: str) -> Client:
    client = Client()
    client.force_login(User.objects.create_user(username="ada", password=PASSWORD, role=role))
    return client


@by_name
def test_who_is_not_signed_in_is_sent_to_sign_in_and_comes_back(client: Client, page: Page, clean_redis: str) -> None:
    response = client.get(f"/{page.address}")
    assert (response.status_code, response["Location"]) == (302, f"/sign-in?next=%2F{page.address}")
    User.objects.create_user(username="ada", password=PASSWORD, role=Role.ADMINISTRATOR)
    back = client.post("/sign-in", {"username": "ada", "password": PASSWORD, "next": f"/{page.address}"})
    assert (back.status_code, back["Location"]) == (302, f"/{page.address}")


@by_name
@pytest.mark.parametrize("role", Role.values)
def test_a_role_sees_what_it_may(page: Page, role: str) -> None:
    response = signed_in(role).get(f"/{page.address}")
    permissions = SEEN[Role(role)]
    assert response.status_code == (200 if page.permission in permissions else 403)
    for other in PAGES:
        assert (f'href="/{other.address}"' in response.text) == (other.permission in permissions)
    assert ("/admin/" in response.text) == (role == Role.ADMINISTRATOR)
    assert f"/static/dashboard/pages/{page.name}.js" in response.text or response.status_code == 403


@by_name
def test_a_page_is_kept_nowhere_and_loads_from_here_alone(page: Page) -> None:
    response = signed_in(Role.ADMINISTRATOR).get(f"/{page.address}")
    assert "no-store" in response["Cache-Control"]
    assert "default-src 'self'" in response["Content-Security-Policy"]
    assert "http://" not in response.text.replace("http://www.w3.org/", "")
    assert "https://" not in response.text


def test_who_signs_out_is_gone() -> None:
    client = signed_in(Role.VIEWER)
    assert client.get("/").status_code == 200
    assert client.get("/sign-out").status_code == 405
    assert client.post("/sign-out")["Location"] == "/sign-in"
    assert client.get("/").status_code == 302


def test_a_wrong_password_is_told_and_many_are_slowed(client: Client, clean_redis: str) -> None:
    for _ in range(settings.LOGIN_ATTEMPTS_PER_MINUTE):
        response = client.post("/sign-in", {"username": "ada", "password": "wrong"})
        assert "The username or the password is wrong." in response.text
    assert client.post("/sign-in", {"username": "ada", "password": "wrong"}).status_code == 429


def test_nobody_is_sent_to_another_site(client: Client, clean_redis: str) -> None:
    User.objects.create_user(username="ada", password=PASSWORD)
    response = client.post("/sign-in", {"username": "ada", "password": PASSWORD, "next": "//elsewhere.example/"})
    assert response["Location"] == "/"
