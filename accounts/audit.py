"""What was changed, by whom, from where: written in the transaction of the change itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from django.http import HttpRequest

from accounts.caller import Caller
from accounts.models import AuditEntry, User
from common.client_address import client_address
from common.request_id import request_id

# Everything that is noted, as docs/accounts.md has it.
Action = Literal[
    "user.created",
    "user.updated",
    "user.password_set",
    "user.deleted",
    "user.reinstated",
    "key.created",
    "key.updated",
    "key.rotated",
    "key.revoked",
    "key.preset",
    "session.began",
    "session.ended",
    "model.register",
    "model.update",
    "model.delete",
    "model.load",
    "model.unload",
    "plugin.loaded",
    "plugin.unloaded",
    "plugin.updated",
]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change. `credential`: a key by its prefix, `token`, `session` or `command`."""

    name: str
    user_id: int | None = None
    credential: str = ""
    address: str = ""


SERVER = Actor("server")


def calling(caller: Caller, request: HttpRequest) -> Actor:
    """The caller of a door."""
    credential = (
        f"key {caller.key_prefix}" if caller.key_id is not None else "token" if caller.session_id else "session"
    )
    return Actor(caller.username, caller.user_id, credential, client_address(request))


def signed_in(user: User, request: HttpRequest, credential: str = "session") -> Actor:
    """A user who has shown a password, to the API or to the admin site."""
    return Actor(user.username, user.pk, credential, client_address(request))


def commanding(command: str) -> Actor:
    """Whoever runs a management command on the host."""
    return Actor("server", credential=f"manage.py {command}")


def record(
    action: Action,
    *,
    actor: Actor,
    target_type: str,
    target_id: object,
    target_name: str = "",
    changes: Mapping[str, tuple[Any, Any]] | None = None,
) -> None:
    """Note a change. `changes`: by field, the value before and after; both must be JSON and no secret."""
    AuditEntry.objects.create(
        actor=actor.name,
        actor_user_id=actor.user_id,
        credential=actor.credential[:64],
        address=actor.address,
        request_id=request_id.get(),
        action=action,
        target_type=target_type,
        target_id=str(target_id),
        target_name=target_name[:200],
        changes={field: {"before": before, "after": after} for field, (before, after) in (changes or {}).items()},
    )
