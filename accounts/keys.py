"""What can be done with API keys.

A key's reach only shrinks: its permission is never raised, and nobody hands out, through a key, more than that key has.
Who needs more makes a new one.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from accounts import audit
from accounts.api_key_format import digest_of, lookup_of, new_key, prefix_of
from accounts.audit import SERVER, Action, Actor
from accounts.caller import LEVELS, Caller, Permission, Tier, granted_by
from accounts.freshness import announce_change
from accounts.models import ApiKey, User
from common.envelope import timestamp
from common.errors import AuthenticationFailed, InvalidInput, NotFound, PermissionDenied

DEFAULT_GRACE = timedelta(days=1)
MAX_GRACE = timedelta(days=30)
# The fields that a change may touch, as the audit names them.
CHANGEABLE = ("name", "permission", "tier", "expires_at", "token_budget", "token_budget_window")
FOR_ADMINISTRATORS = ("tier", "token_budget", "token_budget_window")


@dataclass(frozen=True, slots=True)
class Reach:
    """What one may hand out: permissions up to one, keys that end no later than theirs; tiers and budgets, or not.

    `key_id` and `key_digest`: the key that one came with, and the hash of its secret. `is_former_secret`: a rotation
    has replaced that secret. Nothing is rotated with it: whoever found it could take the key from its owner.
    """

    permission: Permission
    expires_at: datetime | None = None
    is_admin: bool = False
    key_id: int | None = None
    key_digest: str = ""
    is_former_secret: bool = False


UNLIMITED = Reach("admin", is_admin=True)


def reach_of(caller: Caller) -> Reach:
    """What a caller may hand out; of one that came with a key, the key is looked at again when it is done."""
    return Reach(_highest(caller.permissions), caller.key_expires_at, caller.is_admin, caller.key_id, caller.key_digest)


@transaction.atomic
def create_api_key(
    *,
    owner: User,
    name: str,
    permission: Permission = "read",
    tier: Tier = "standard",
    expires_at: datetime | None = None,
    token_budget: int | None = None,
    token_budget_window: int = ApiKey.DAY_SECONDS,
    key: str | None = None,
    actor: Actor = SERVER,
    reach: Reach = UNLIMITED,
) -> tuple[ApiKey, str]:
    """Make a key. Returns the row and the key itself, which is never to be had again.

    Raises PermissionDenied for more than `reach`.
    """
    reach = _reach_now(reach, _locked(reach.key_id))
    key = key or new_key()
    row = ApiKey(
        owner=owner,
        name=name,
        permission=permission,
        tier=tier,
        expires_at=expires_at or reach.expires_at,
        token_budget=token_budget,
        token_budget_window=token_budget_window,
    )
    _set_secret(row, key)
    _check_within(reach, row)
    if not reach.is_admin and (tier != "standard" or token_budget is not None):
        raise PermissionDenied("Only administrators choose a tier or a token budget.", details={"required": "admin"})
    row.save()
    given = [field for field in CHANGEABLE if not field.startswith("token_budget") or row.token_budget is not None]
    _record("key.created", row, actor, {field: (None, _value(row, field)) for field in given})
    return row, key


@transaction.atomic
def update_api_key(*, key: ApiKey, changes: dict[str, Any], actor: Actor, reach: Reach = UNLIMITED) -> ApiKey:
    """Change some of CHANGEABLE. Raises PermissionDenied beyond `reach`, InvalidInput for a wider permission."""
    row, reach = _locked_for(key, reach)
    _check_manages(reach, row)
    if not reach.is_admin and any(field in changes for field in FOR_ADMINISTRATORS):
        raise PermissionDenied("Only administrators change a tier or a token budget.", details={"required": "admin"})
    if "permission" in changes and LEVELS.index(changes["permission"]) > LEVELS.index(row.level):
        raise InvalidInput("A key's permissions can only be narrowed; make a new key for more.", field="permissions")
    if not reach.is_admin and "expires_at" in changes and _ends_later(changes["expires_at"], row.expires_at):
        raise InvalidInput("Only administrators let a key live longer.", field="expires_at")
    before = {field: _value(row, field) for field in changes}
    for field, value in changes.items():
        setattr(row, field, value)
    if "expires_at" in changes:
        _check_within(reach, row)
    changed = {field: (before[field], _value(row, field)) for field in changes if before[field] != _value(row, field)}
    if changed:
        row.save(update_fields=list(changed))
        _record("key.updated", row, actor, changed)
        announce_change()
    return row


@transaction.atomic
def rotate_api_key(
    *, key: ApiKey, actor: Actor, reach: Reach = UNLIMITED, grace: timedelta = DEFAULT_GRACE
) -> tuple[ApiKey, str]:
    """Give a key a new secret; the old one opens the same until `grace` has passed, an older one no more.

    Id, limits, budget and usage stay. Returns the row and the new key, which is never to be had again. Raises
    PermissionDenied beyond `reach`, InvalidInput for a key that is over.
    """
    row, reach = _locked_for(key, reach)
    if reach.is_former_secret:
        raise PermissionDenied("The key you came with was replaced; rotate with the new one.")
    _check_within(reach, row)
    if row.state != ApiKey.State.ACTIVE:
        raise InvalidInput(f"The key is {row.state.value} and can't be rotated; make a new one.")
    now = timezone.now()
    prefix, secret = row.prefix, new_key()
    row.old_lookup, row.old_digest, row.old_ends_at = row.lookup, row.digest, now + grace
    _set_secret(row, secret)
    row.rotated_at = now
    row.save()
    ends = {"old_key_ends_at": (None, timestamp(row.old_ends_at))}
    _record("key.rotated", row, actor, {"prefix": (prefix, row.prefix), **ends})
    announce_change()
    return row, secret


@transaction.atomic
def revoke_api_key(*, key: ApiKey, actor: Actor, reach: Reach = UNLIMITED) -> ApiKey:
    """End a key and the one that it replaced; doing it twice is the same as once."""
    row, reach = _locked_for(key, reach)
    _check_manages(reach, row)
    if row.revoked_at is None:
        row.revoked_at = timezone.now()
        row.save(update_fields=["revoked_at"])
        _record("key.revoked", row, actor, {"revoked_at": (None, timestamp(row.revoked_at))})
        announce_change()
    return row


@transaction.atomic
def preset_api_key(*, key: ApiKey | None, owner: User, name: str, secret: str) -> ApiKey:
    """See to it that this very secret is a premium administrator's key, whatever had become of it.

    `key`: the one that it replaces, which opens nothing any more.
    """
    row = ApiKey.objects.filter(lookup=lookup_of(digest_of(secret))).first() or key or ApiKey()
    wanted = {
        "owner_id": owner.pk,
        "name": name,
        "permission": "admin",
        "tier": "premium",
        "digest": digest_of(secret),
        "expires_at": None,
        "revoked_at": None,
    }
    if key is not None and row.pk != key.pk:
        revoke_api_key(key=key, actor=SERVER)
    if any(getattr(row, field) != value for field, value in wanted.items()):
        is_new = row.pk is None
        for field, value in wanted.items():
            setattr(row, field, value)
        _set_secret(row, secret)
        row.old_lookup, row.old_digest, row.old_ends_at = "", "", None
        row.save()
        _record("key.created" if is_new else "key.preset", row, SERVER, {})
        announce_change()
    return row


def _set_secret(row: ApiKey, key: str) -> None:
    row.digest = digest_of(key)
    row.lookup, row.prefix = lookup_of(row.digest), prefix_of(key)


def _locked_for(key: ApiKey, reach: Reach) -> tuple[ApiKey, Reach]:
    """A key's row, and the reach as it is now."""
    rows = _locked(key.pk, reach.key_id)
    if key.pk not in rows:
        raise NotFound("The key was deleted meanwhile.")
    return rows[key.pk], _reach_now(reach, rows)


def _locked(*ids: int | None) -> dict[int, ApiKey]:
    """Rows by their ids, locked in one order, so that nobody waits in a circle."""
    wanted = [key_id for key_id in ids if key_id is not None]
    if not wanted:
        return {}
    rows = ApiKey.objects.select_for_update(of=("self",)).select_related("owner").filter(pk__in=wanted)
    return {row.pk: row for row in rows.order_by("pk")}


def _reach_now(reach: Reach, rows: dict[int, ApiKey]) -> Reach:
    """The reach of the key that one came with, by its row: it may have changed since the door let it in.

    Raises AuthenticationFailed when it opens nothing any more.
    """
    if reach.key_id is None:
        return reach
    row = rows.get(reach.key_id)
    if row is None or reach.key_digest not in (row.digest, row.old_digest) or not row.opens(reach.key_digest):
        raise AuthenticationFailed("The key that you came with was ended or replaced meanwhile.")
    return Reach(
        _highest(row.permissions),
        row.end_of(reach.key_digest),
        "admin" in row.permissions,
        reach.key_id,
        reach.key_digest,
        is_former_secret=reach.key_digest != row.digest,
    )


def _highest(permissions: frozenset[Permission]) -> Permission:
    held = [level for level in LEVELS if level in permissions]
    return held[-1] if held else "read"


def _check_manages(reach: Reach, row: ApiKey) -> None:
    """Refuse to narrow or end a key that can now do more than what it is done with."""
    if not row.permissions <= granted_by(reach.permission):
        raise PermissionDenied("The key can do more than what you came with.", details={"required": row.level})


def _check_within(reach: Reach, row: ApiKey) -> None:
    """Refuse to hand out a key that can do more, or lives longer, than what it is done with."""
    if LEVELS.index(row.level) > LEVELS.index(reach.permission):
        raise PermissionDenied(
            "The key can do more than the credential you came with.", details={"required": row.level}
        )
    if reach.expires_at is not None and _ends_later(row.expires_at, reach.expires_at):
        raise PermissionDenied("The key lives longer than the one you came with.")


def _ends_later(one: datetime | None, other: datetime | None) -> bool:
    """None is never."""
    return other is not None and (one is None or one > other)


def _value(row: ApiKey, field: str) -> Any:
    value = getattr(row, field)
    return timestamp(value) if isinstance(value, datetime) else value


def _record(action: Action, row: ApiKey, actor: Actor, changes: dict[str, tuple[Any, Any]]) -> None:
    name = f"{row.name} ({row.prefix}) of {row.owner.username}"
    audit.record(action, actor=actor, target_type="key", target_id=row.pk, target_name=name, changes=changes)
