"""Who calls, as every door sees it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Permission = Literal["read", "write", "admin"]
Tier = str  # one of settings.TIERS

# Each permission includes those before it.
LEVELS: tuple[Permission, ...] = ("read", "write", "admin")


def granted_by(permission: Permission | None) -> frozenset[Permission]:
    """The permissions that one includes; none of them for None."""
    return frozenset(LEVELS[: LEVELS.index(permission) + 1]) if permission else frozenset()


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """How many tokens, of prompts and completions together, a key may use in each window of so many seconds."""

    tokens: int
    window: int


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated key or user, or an anonymous address.

    `identity` is what limits count: `key:12`, `user:admin` or `address:192.0.2.1`. `session_id` names the sign-in that
    a token belongs to. `key_digest`: the hash of the secret that was shown. `key_expires_at`: its end, which for a
    key's former secret is that of its grace time.
    """

    identity: str
    permissions: frozenset[Permission]
    user_id: int | None = None
    username: str = ""
    tier: Tier = "standard"
    key_id: int | None = None
    key_prefix: str = ""
    key_expires_at: datetime | None = None
    key_digest: str = ""
    session_id: str = ""
    budget: TokenBudget | None = None

    @property
    def is_anonymous(self) -> bool:
        return self.user_id is None

    @property
    def is_admin(self) -> bool:
        return "admin" in self.permissions
