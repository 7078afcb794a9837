"""Users, their API keys, the sessions that ended early, and what was changed by whom."""

from datetime import datetime
from typing import Any, ClassVar, cast

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone

from accounts.caller import Permission, Tier, TokenBudget, granted_by


class Role(models.TextChoices):
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"


ROLE_PERMISSION: dict[str, Permission] = {"viewer": "read", "operator": "write", "administrator": "admin"}


class UserManager(BaseUserManager["User"]):
    def create_user(self, username: str, password: str | None = None, **fields: Any) -> "User":
        """A user; without a password, one who cannot sign in with one."""
        user = self.model(username=self.model.normalize_username(username), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, username: str, password: str | None = None, **fields: Any) -> "User":
        """What `manage.py createsuperuser` calls."""
        return self.create_user(username, password, **{**fields, "role": Role.ADMINISTRATOR})


class User(AbstractBaseUser):
    """A person or a program. The role alone decides what they may do, in the API and on the admin site."""

    username = models.CharField(
        max_length=150,
        unique=True,
        validators=[UnicodeUsernameValidator()],
        help_text="Letters, digits and @/./+/-/_. The API calls it the user's id.",
        error_messages={"unique": "There is a user of this name."},
    )
    email = models.EmailField(blank=True)
    role = models.CharField(
        max_length=16,
        choices=Role.choices,
        default=Role.VIEWER,
        help_text="Viewers look, operators also run inference, administrators do everything, this site included.",
    )
    is_active = models.BooleanField(
        "active", default=True, help_text="A disabled user's keys, tokens and sessions open nothing."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[UserManager] = UserManager()
    USERNAME_FIELD = "username"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        ordering = ("username",)
        constraints = (
            models.UniqueConstraint(
                Lower("username"), name="username_in_any_case", violation_error_message="There is a user of this name."
            ),
        )

    @property
    def permissions(self) -> frozenset[Permission]:
        return granted_by(ROLE_PERMISSION.get(self.role))

    @property
    def is_staff(self) -> bool:
        """Whether Django's admin site lets the user in."""
        return self.role == Role.ADMINISTRATOR

    def has_perm(self, perm: str, obj: object = None) -> bool:
        return self.is_active and self.is_staff

    def has_module_perms(self, app_label: str) -> bool:
        return self.is_active and self.is_staff


def tier_choices() -> list[tuple[str, str]]:
    """The tiers of this installation."""
    return [(name, name) for name in settings.TIERS]


class ApiKey(models.Model):
    """A key of one user. Only hashes are stored: `lookup` finds the row, `digest` proves the key.

    After a rotation the key before it opens the same until `old_ends_at`.
    """

    class PermissionLevel(models.TextChoices):
        READ = "read"
        WRITE = "write"
        ADMIN = "admin"

    class State(models.TextChoices):
        ACTIVE = "active"
        EXPIRED = "expired"
        REVOKED = "revoked"

    DAY_SECONDS = 24 * 3600

    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100, help_text="What it is for.")
    prefix = models.CharField(max_length=16, help_text="The part of the key that may be shown.")
    lookup = models.CharField(max_length=16, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    old_lookup = models.CharField(max_length=16, blank=True, default="", db_index=True, editable=False)
    old_digest = models.CharField(max_length=64, blank=True, default="", editable=False)
    old_ends_at = models.DateTimeField(null=True, blank=True, editable=False)
    permission = models.CharField(
        max_length=8,
        choices=PermissionLevel.choices,
        default=PermissionLevel.READ,
        help_text="Each includes those before it. The owner's role limits it further.",
    )
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
    rotated_at = models.DateTimeField(null=True, blank=True, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: never.")
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField("last used", null=True, blank=True, editable=False)

    class Meta:
        ordering = ("id",)
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix})"

    @property
    def permissions(self) -> frozenset[Permission]:
        """What the key grants: its own level, and never more than its owner's role."""
        return granted_by(self.level) & self.owner.permissions

    @property
    def level(self) -> Permission:
        return cast(Permission, self.permission)

    @property
    def tier_name(self) -> Tier:
        """The key's tier, or `standard` when the settings no longer have it."""
        return self.tier if self.tier in settings.TIERS else "standard"

    @property
    def budget(self) -> TokenBudget | None:
        if self.token_budget is None:
            return None
        return TokenBudget(tokens=self.token_budget, window=self.token_budget_window)

    @property
    def state(self) -> "ApiKey.State":
        if self.revoked_at is not None:
            return self.State.REVOKED
        is_expired = self.expires_at is not None and self.expires_at <= timezone.now()
        return self.State.EXPIRED if is_expired else self.State.ACTIVE

    def opens(self, digest: str) -> bool:
        """Whether the key with this digest, the present or the rotated one, opens anything now."""
        ends_at = self.end_of(digest)
        return self.revoked_at is None and self.owner.is_active and (ends_at is None or ends_at > timezone.now())

    def end_of(self, digest: str) -> datetime | None:
        """When the key with this digest, the present or the rotated one, ends; None for never."""
        ends = [self.expires_at] if digest == self.digest else [self.expires_at, self.old_ends_at]
        return min((end for end in ends if end is not None), default=None)


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


class EndedSession(models.Model):
    """A sign-in that was ended before its tokens expire. The row can go when they have."""

    id = models.CharField(primary_key=True, max_length=64)
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.id


class AuditEntry(models.Model):
    """One change: who made it, when, from where, and what was before and after. Never altered, and free of secrets."""

    at = models.DateTimeField(default=timezone.now, db_index=True)
    actor = models.CharField(max_length=150, db_index=True, help_text="Username, or what acted by itself.")
    actor_user = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    credential = models.CharField(max_length=64, blank=True, help_text="What they signed in with.")
    address = models.CharField(max_length=64, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    action = models.CharField(max_length=64, db_index=True, help_text="Such as key.revoked.")
    target_type = models.CharField(max_length=32)
    target_id = models.CharField(max_length=200)
    target_name = models.CharField(max_length=200, blank=True)
    changes = models.JSONField(default=dict, blank=True, help_text="By field, the value before and after.")

    class Meta:
        ordering = ("-id",)
        verbose_name = "audit entry"
        verbose_name_plural = "audit entries"
        indexes = (models.Index(fields=["target_type", "target_id"], name="audit_target"),)

    def __str__(self) -> str:
        return f"{self.action} {self.target_type} {self.target_name or self.target_id}"
