import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncClient
from pytest_django import Settings

from accounts.keys import create_api_key
from accounts.models import Role, User

PASSWORD = "correct horse battery"


@pytest.fixture
def client(clean_redis: str) -> AsyncClient:
    """A client of the site as it is."""
    return AsyncClient()


@pytest.fixture
def probe(client: AsyncClient, settings: Settings) -> AsyncClient:
    """A client of a site with one door, /api/v1/probe, that reads for GET, writes for POST and administers for PUT."""
    settings.ROOT_URLCONF = "tests.accounts.probe"
    return client


async def make_user(
    role: str = Role.ADMINISTRATOR, username: str = "ada", password: str | None = None, **fields: bool
) -> User:
    """A user who cannot log in unless a password is given: hashing one takes its time."""
    return await sync_to_async(User.objects.create_user)(username, password=password, role=role, **fields)


async def make_key(owner: User | None = None, **fields: object) -> str:
    """A key of a new administrator or of `owner`."""
    owner = owner or await make_user()
    fields = {"permission": "admin", **fields}
    _, key = await sync_to_async(create_api_key)(owner=owner, name="test", **fields)  # type: ignore[arg-type]
    return key


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}
