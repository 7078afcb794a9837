"""Users and their API keys."""

from datetime import datetime
from typing import cast

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from accounts.caller import Permission, Tier, TokenBudget, granted_by


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


def tier_choices() -> list[tuple[str, str]]:
    """The tiers of this installation."""
    return [(name, name) for name in settings.TIERS]


class ApiKey(models.Model):
    """A key of one user. Only its hash is stored; `lookup` finds the row, `digest` proves the key."""

    class PermissionLevel(models.TextChoices):
        READ = "read"
        WRITE = "write"
        ADMIN = "admin"

    DAY_SECONDS = 24 * 3600

    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16)
    lookup = models.CharField(max_length=16, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    permission = models.CharField(max_length=8, choices=PermissionLevel.choices, default=PermissionLevel.READ)
    tier = models.CharField(max_length=32, choices=tier_choices, default="standard")
    token_budget = models.PositiveBigIntegerField(
        null=True, blank=True, help_text="Tokens of prompts and completions in each window; empty: no limit."
    )
    token_budget_window = models.PositiveIntegerField(
        default=DAY_SECONDS,
        validators=[MinValueValidator(1), MaxValueValidator(366 * DAY_SECONDS)],
        help_text="Seconds of a window; the first request begins it.",
    )
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
        """The key's tier, or `standard` when the settings no longer have it."""
        return self.tier if self.tier in settings.TIERS else "standard"

    @property
    def budget(self) -> TokenBudget | None:
        if self.token_budget is None:
            return None
        return TokenBudget(tokens=self.token_budget, window=self.token_budget_window)

    def is_usable(self, now: datetime) -> bool:
        """Whether the key opens anything at this moment: not revoked, not expired, its owner active."""
        is_expired = self.expires_at is not None and self.expires_at <= now
        return self.revoked_at is None and not is_expired and self.owner.is_active


class DailyUsage(models.Model):
    """What one key, or one user's tokens, used of one model on one day (UTC).

    Added up as requests end, so that it stays when their records are pruned and when users and keys are gone: the ids
    are plain numbers, 0 for none.
    """

    day = models.DateField()
    user_id = models.BigIntegerField(default=0)
    key_id = models.BigIntegerField(default=0)
    model = models.CharField(max_length=200)
    requests = models.PositiveBigIntegerField(default=0)
    completed = models.PositiveBigIntegerField(default=0)
    failed = models.PositiveBigIntegerField(default=0)
    cancelled = models.PositiveBigIntegerField(default=0)
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    completion_tokens = models.PositiveBigIntegerField(default=0)
    cached_tokens = models.PositiveBigIntegerField(default=0)

    class Meta:
        ordering = ("-day", "user_id", "key_id", "model")
        verbose_name_plural = "daily usage"
        constraints = (models.UniqueConstraint(fields=["day", "user_id", "key_id", "model"], name="usage_of_a_day"),)
        indexes = (models.Index(fields=["user_id", "day"], name="usage_user_day"),)

    def __str__(self) -> str:
        return f"{self.day} {self.model}"
