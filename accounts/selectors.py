"""Questions about users, keys and the audit."""

from datetime import datetime
from typing import Any

from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from accounts.caller import Caller
from accounts.models import ApiKey, AuditEntry, User
from common.errors import NotFound


def usable_keys(now: datetime) -> Q:
    """Keys that are neither revoked nor expired."""
    return Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=now))


def find_users(*, search: str = "", role: str = "", active: bool | None = None) -> QuerySet[User]:
    users = with_key_counts(User.objects.all())
    if search:
        users = users.filter(Q(username__icontains=search) | Q(email__icontains=search))
    if role:
        users = users.filter(role=role)
    return users if active is None else users.filter(is_active=active)


def with_key_counts(users: QuerySet[User]) -> QuerySet[User]:
    """Each with `active_keys`, how many of its keys are neither revoked nor expired."""
    now = timezone.now()
    usable = Q(api_keys__revoked_at=None) & (Q(api_keys__expires_at=None) | Q(api_keys__expires_at__gt=now))
    return users.annotate(active_keys=Count("api_keys", filter=Q(api_keys__isnull=False) & usable))


def get_user(username: str) -> User:
    """Raises NotFound."""
    user = with_key_counts(User.objects.filter(username=username)).first()
    if user is None:
        raise NotFound("There is no such user.")
    return user


def find_keys(caller: Caller, *, owner: str = "", state: str = "") -> QuerySet[ApiKey]:
    """The caller's own keys; every user's for administrators."""
    keys = ApiKey.objects.select_related("owner")
    if not caller.is_admin:
        keys = keys.filter(owner_id=caller.user_id)
    if owner:
        keys = keys.filter(owner__username=owner)
    return keys.filter(in_state(state)) if state else keys


def in_state(state: str) -> Q:
    if state == ApiKey.State.ACTIVE:
        return usable_keys(timezone.now())
    if state == ApiKey.State.EXPIRED:
        return Q(revoked_at=None, expires_at__lte=timezone.now())
    return Q(revoked_at__isnull=False)


def get_key(caller: Caller, key_id: int) -> ApiKey:
    """Raises NotFound, also for a key that the caller may not know of."""
    key = find_keys(caller).filter(pk=key_id).first()
    if key is None:
        raise NotFound("There is no such key.")
    return key


def find_audit_entries(query: dict[str, Any]) -> QuerySet[AuditEntry]:
    """By what AuditQuery has parsed. An action that ends in a dot stands for all that begin with it."""
    exact = {
        field: query[field]
        for field in ("actor", "address", "target_type", "target_id", "request_id")
        if field in query
    }
    entries = AuditEntry.objects.filter(**exact)
    if action := query.get("action"):
        entries = entries.filter(action__startswith=action) if action.endswith(".") else entries.filter(action=action)
    if "since" in query:
        entries = entries.filter(at__gte=query["since"])
    return entries.filter(at__lt=query["until"]) if "until" in query else entries
