from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounts.api_key_format import digest_of
from accounts.models import ApiKey, AuditEntry, Role, User

pytestmark = pytest.mark.django_db


def createkey(*arguments: str) -> tuple[str, str]:
    output, errors = StringIO(), StringIO()
    call_command("createkey", *arguments, stdout=output, stderr=errors)
    return output.getvalue(), errors.getvalue()


@pytest.fixture(autouse=True)
def users() -> None:
    User.objects.create_user("admin", role=Role.ADMINISTRATOR)
    User.objects.create_user("bob", role=Role.VIEWER)


def test_the_key_is_alone_on_standard_output() -> None:
    output, errors = createkey("ci")
    row = ApiKey.objects.get()
    assert digest_of(output.strip()) == row.digest
    assert output.strip() not in errors
    assert (row.owner.username, row.name, row.permission, row.tier, row.expires_at) == (
        "admin",
        "ci",
        "write",
        "standard",
        None,
    )
    assert AuditEntry.objects.get().credential == "manage.py createkey"


def test_everything_can_be_chosen() -> None:
    arguments = (
        "--user",
        "bob",
        "--permission",
        "read",
        "--tier",
        "premium",
        "--expires",
        "12h",
        "--token-budget",
        "9",
    )
    _, errors = createkey("mine", *arguments)
    row = ApiKey.objects.get()
    assert (row.owner.username, row.permission, row.tier, row.token_budget) == ("bob", "read", "premium", 9)
    assert row.expires_at is not None
    assert abs(row.expires_at - timezone.now() - timedelta(hours=12)) < timedelta(minutes=1)
    assert "premium" in errors


def test_a_time_can_be_given_as_it_is() -> None:
    createkey("mine", "--expires", "2099-01-31")
    assert ApiKey.objects.get().expires_at == timezone.datetime.fromisoformat("2099-01-31T00:00:00Z")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("x", "--user", "eve"), "there are: admin, bob"),
        (("x", "--user", "bob"), "bob is viewer"),
        (("x", "--expires", "soon"), "neither a time"),
        (("x", "--expires", "2001-01-01"), "has passed"),
        (("x", "--tier", "gold"), "invalid choice"),
        (("x", "--token-budget", "-1"), "negative"),
        (("",), "1 to 100"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(arguments: tuple[str, ...], told: str) -> None:
    with pytest.raises(CommandError, match=told):
        createkey(*arguments)
    assert not ApiKey.objects.exists()
