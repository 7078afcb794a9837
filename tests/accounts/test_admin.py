import re
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from accounts.api_key_format import digest_of
from accounts.keys import create_api_key
from accounts.models import ApiKey, AuditEntry, DailyUsage, Role, User
from accounts.services import ensure_administrator
from models_mgmt.services import ensure_model

pytestmark = pytest.mark.django_db
PASSWORD = "a long enough one"
KEY = re.compile(r"lgpu_[A-Za-z0-9]{8}_[A-Za-z0-9]{40}")


@pytest.fixture
def administrator(clean_redis: str) -> Client:
    ensure_administrator(password=None)
    client = Client()
    client.force_login(User.objects.get())
    return client


def page(name: str, *args: object) -> str:
    return reverse(f"admin:accounts_{name}", args=args)


def post(client: Client, path: str, **fields: Any) -> HttpResponse:
    return client.post(path, fields, follow=True)


def act(client: Client, action: str, *rows: ApiKey | User, **fields: Any) -> HttpResponse:
    kind = "apikey" if isinstance(rows[0], ApiKey) else "user"
    return post(client, page(f"{kind}_changelist"), action=action, _selected_action=[row.pk for row in rows], **fields)


def the_key_in(response: HttpResponse) -> str:
    (key,) = KEY.findall(response.text)
    return str(key)


def key_fields(**fields: Any) -> dict[str, Any]:
    shown = {"name": "made", "permission": "write", "tier": "standard", "token_budget": "", "token_budget_window": "60"}
    return {**shown, "expires_at_0": "", "expires_at_1": "", **fields}


@pytest.mark.parametrize(
    "name", ["accounts_user", "accounts_apikey", "accounts_auditentry", "accounts_dailyusage", "models_mgmt_model"]
)
def test_lists_searches_and_forms_open_and_hold_no_secret(administrator: Client, name: str) -> None:
    owner = User.objects.get()
    row, key = create_api_key(owner=owner, name="mine")
    ensure_model(id="echo", name="Echo", source_kind="echo")
    usage = DailyUsage.objects.create(day="2026-01-01", user_id=owner.pk, key_id=row.pk, model="echo", requests=3)
    ids = {
        "accounts_user": owner.pk,
        "accounts_apikey": row.pk,
        "accounts_auditentry": AuditEntry.objects.latest("id").pk,
        "accounts_dailyusage": usage.pk,
        "models_mgmt_model": "echo",
    }
    listed, changed = reverse(f"admin:{name}_changelist"), reverse(f"admin:{name}_change", args=[ids[name]])
    for path in (listed, f"{listed}?q=mine", changed):
        response = administrator.get(path)
        assert response.status_code == 200
        for secret in (row.digest, key, owner.password):
            assert secret not in response.text


def test_the_filters_find_keys_by_state(administrator: Client) -> None:
    row, _ = create_api_key(owner=User.objects.get(), name="unmistakable")
    act(administrator, "revoke", row)
    for state, count in (("active", 0), ("expired", 0), ("revoked", 1)):
        response = administrator.get(page("apikey_changelist"), {"state": state})
        assert response.text.count(">unmistakable<") == count


def test_a_key_is_made_and_shown_once(administrator: Client) -> None:
    bob = User.objects.create_user("bob", role=Role.OPERATOR)
    response = post(administrator, page("apikey_add"), owner=bob.pk, **key_fields(tier="premium"))
    assert "no-store" in response["Cache-Control"]
    key = the_key_in(response)
    row = ApiKey.objects.get()
    assert (row.owner, row.tier, row.permission, row.digest) == (bob, "premium", "write", digest_of(key))
    assert key not in administrator.get(page("apikey_change", row.pk)).text
    entry = AuditEntry.objects.get(action="key.created")
    assert (entry.actor, entry.credential, entry.address) == ("admin", "session", "127.0.0.1")


def test_a_key_beyond_its_owners_role_is_refused(administrator: Client) -> None:
    bob = User.objects.create_user("bob", role=Role.VIEWER)
    response = post(administrator, page("apikey_add"), owner=bob.pk, **key_fields())
    assert "bob is viewer and can&#x27;t do that" in response.text
    assert not ApiKey.objects.exists()


def test_a_key_is_narrowed_and_not_widened(administrator: Client) -> None:
    row, _ = create_api_key(owner=User.objects.get(), name="made", permission="write")
    path = page("apikey_change", row.pk)
    refused = post(administrator, path, **key_fields(permission="admin"))
    assert "admin is not one of the available choices" in refused.text
    post(administrator, path, **key_fields(permission="read", token_budget="5"))
    row.refresh_from_db()
    assert (row.permission, row.token_budget) == ("read", 5)
    assert AuditEntry.objects.get(action="key.updated").changes["permission"] == {"before": "write", "after": "read"}


def test_keys_are_rotated_after_a_question(administrator: Client) -> None:
    row, old = create_api_key(owner=User.objects.get(), name="mine")
    question = act(administrator, "rotate", row)
    assert "The old ones work on" in question.text
    assert not KEY.search(question.text)
    response = act(administrator, "rotate", row, grace="3600")
    assert "no-store" in response["Cache-Control"]
    key = the_key_in(response)
    row.refresh_from_db()
    assert (row.digest, row.old_digest) == (digest_of(key), digest_of(old))
    assert row.old_ends_at is not None


def test_a_revoked_key_is_not_rotated(administrator: Client) -> None:
    row, _ = create_api_key(owner=User.objects.get(), name="mine")
    assert "open nothing any more" in act(administrator, "revoke", row).text
    assert "is revoked and can&#x27;t be rotated" in act(administrator, "rotate", row, grace="0").text


def test_tiers_are_set_for_many(administrator: Client) -> None:
    rows = [create_api_key(owner=User.objects.get(), name=name)[0] for name in ("one", "two")]
    act(administrator, "tier_premium", *rows)
    assert set(ApiKey.objects.values_list("tier", flat=True)) == {"premium"}
    assert AuditEntry.objects.filter(action="key.updated").count() == 2


def test_keys_are_never_deleted(administrator: Client) -> None:
    row, _ = create_api_key(owner=User.objects.get(), name="mine")
    assert administrator.post(page("apikey_delete", row.pk), {"post": "yes"}).status_code == 403
    assert "delete_selected" not in administrator.get(page("apikey_changelist")).text


@pytest.mark.parametrize("usable", ["true", "false"])
def test_a_user_is_made_with_a_role(administrator: Client, usable: str) -> None:
    passwords = {"password1": PASSWORD, "password2": PASSWORD} if usable == "true" else {}
    post(administrator, page("user_add"), username="bob", role="operator", usable_password=usable, **passwords)
    bob = User.objects.get(username="bob")
    assert (bob.role, bob.has_usable_password()) == (Role.OPERATOR, usable == "true")
    assert AuditEntry.objects.get(action="user.created", target_id="bob").actor == "admin"


def test_a_user_is_changed_disabled_and_enabled(administrator: Client) -> None:
    bob = User.objects.create_user("bob")
    post(administrator, page("user_change", bob.pk), role="operator", is_active="on", email="bob@example.org")
    bob.refresh_from_db()
    assert (bob.role, bob.email, bob.is_active) == ("operator", "bob@example.org", True)
    for action, is_active in (("disable", False), ("enable", True)):
        act(administrator, action, bob)
        bob.refresh_from_db()
        assert bob.is_active is is_active
    assert AuditEntry.objects.filter(action="user.updated", target_id="bob").count() == 3


def test_the_last_administrator_stays(administrator: Client) -> None:
    admin = User.objects.get()
    path = page("user_change", admin.pk)
    answers = [
        post(administrator, path, role="viewer", is_active="on"),
        post(administrator, path, role="administrator"),
        act(administrator, "disable", admin),
        post(administrator, page("user_delete", admin.pk), post="yes"),
        act(administrator, "delete_selected", admin, post="yes"),
    ]
    for answer in answers:
        assert "the last active administrator" in answer.text
    admin.refresh_from_db()
    assert (admin.role, admin.is_active) == (Role.ADMINISTRATOR, True)


def test_a_user_is_deleted_with_their_keys(administrator: Client) -> None:
    bob = User.objects.create_user("bob")
    create_api_key(owner=bob, name="of bob")
    post(administrator, page("user_delete", bob.pk), post="yes")
    assert not ApiKey.objects.exists()
    assert AuditEntry.objects.get(action="user.deleted").target_id == "bob"


def test_passwords_set_here_are_noted(administrator: Client) -> None:
    bob = User.objects.create_user("bob")
    new = {"password1": PASSWORD, "password2": PASSWORD}
    post(administrator, reverse("admin:auth_user_password_change", args=[bob.pk]), usable_password="true", **new)
    bob.refresh_from_db()
    assert bob.check_password(PASSWORD)
    admin = User.objects.get(username="admin")
    admin.set_password("the one before it")
    admin.save()
    administrator.force_login(admin)
    own = {"old_password": "the one before it", "new_password1": PASSWORD, "new_password2": PASSWORD}
    post(administrator, reverse("admin:password_change"), **own)
    entries = AuditEntry.objects.filter(action="user.password_set").order_by("id")
    assert [(entry.actor, entry.target_id) for entry in entries] == [("admin", "bob"), ("admin", "admin")]


def test_sign_ins_and_sign_outs_are_noted(clean_redis: str) -> None:
    ensure_administrator(password=PASSWORD)
    client = Client()
    for password in ("wrong", PASSWORD):
        client.post(reverse("admin:login"), {"username": "admin", "password": password, "next": "/admin/"})
    client.post(reverse("admin:logout"))
    entries = AuditEntry.objects.filter(action__startswith="session.").order_by("id")
    assert [(entry.action, entry.actor, entry.credential) for entry in entries] == [
        ("session.began", "admin", "password"),
        ("session.ended", "admin", "session"),
    ]


def test_the_history_of_a_user_and_of_a_key_is_the_audit(administrator: Client) -> None:
    row, _ = create_api_key(owner=User.objects.get(), name="mine")
    act(administrator, "revoke", row)
    for path in (
        page("apikey_history", row.pk),
        page("user_history", User.objects.get().pk),
    ):
        response = administrator.get(path, follow=True)
        assert response.redirect_chain[0][0].startswith(page("auditentry_changelist"))
    assert "key.revoked" in administrator.get(page("apikey_history", row.pk), follow=True).text


@pytest.mark.parametrize("name", ["auditentry", "dailyusage"])
def test_what_the_server_wrote_is_not_altered(administrator: Client, name: str) -> None:
    DailyUsage.objects.create(pk=1, day="2026-01-01", model="echo")
    row = AuditEntry.objects.latest("id").pk if name == "auditentry" else 1
    assert administrator.get(page(f"{name}_add")).status_code == 403
    assert administrator.post(page(f"{name}_change", row), {}).status_code == 403
    assert administrator.post(page(f"{name}_delete", row), {"post": "yes"}).status_code == 403


def test_others_do_not_enter() -> None:
    client = Client()
    client.force_login(User.objects.create_user("eve", role=Role.OPERATOR))
    assert client.get(reverse("admin:index")).status_code == 302
