"""Users and their API keys."""

from datetime import datetime
from typing import cast

from django.contrib.auth.models import AbstractUser
from django.db import models

from accounts.caller import Permission, Tier, granted_by


class Role(models.TextChoices):
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"


ROLE_PERMISSION: dict[str, Permission] = {"viewer": "read", "operator": "write", "administrator": "admin"}


class User(AbstractUser):
    """A person. The role decides what the API allows; staff and superuser flags open Django's admin site."""

    role = models.CharField(max_length=16, choices=Role.choices, default=Role.VIEWER)

    @property
    def permissions(self) -> frozenset[Permission]:
        return granted_by(ROLE_PERMISSION.get(self.role))


class ApiKey(models.Model):
    """A key of one user. Only its hash is stored; `lookup` finds the row, `digest` proves the key."""

    class PermissionLevel(models.TextChoices):
        READ = "read"
        WRITE = "write"
        ADMIN = "admin"

    class TierName(models.TextChoices):
        STANDARD = "standard"
        PREMIUM = "premium"

    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16)
    lookup = models.CharField(max_length=16, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    permission = models.CharField(max_length=8, choices=PermissionLevel.choices, default=PermissionLevel.READ)
    tier = models.CharField(max_length=8, choices=TierName.choices, default=TierName.STANDARD)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix})"

    @property
    def permissions(self) -> frozenset[Permission]:
        """What the key grants: its own level, and never more than its owner's role."""
        return granted_by(cast(Permission, self.permission)) & self.owner.permissions

    @property
    def tier_name(self) -> Tier:
        return "premium" if self.tier == self.TierName.PREMIUM else "standard"

    def is_usable(self, now: datetime) -> bool:
        """Whether the key opens anything at this moment: not revoked, not expired, its owner active."""
        is_expired = self.expires_at is not None and self.expires_at <= now
        return self.revoked_at is None and not is_expired and self.owner.is_active
