"""What is decided about plugins. What a plugin is, its package says; what it does now, the workers know."""

from datetime import datetime, timedelta
from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class Plugin(models.Model):
    """An installed plugin's state and configuration; a row is made when the plugin is first loaded or configured."""

    class OnError(models.TextChoices):
        OPEN = "open", "open: go on without the plugin"
        CLOSED = "closed", "closed: fail the request"

    class Circuit(models.TextChoices):
        CLOSED = "closed", "closed: in use"
        OPEN = "open", "open: switched off after failures"

    id = models.CharField(primary_key=True, max_length=100)
    loaded = models.BooleanField(default=False)
    enabled = models.BooleanField(default=True, help_text="A loaded plugin that is not enabled is passed by.")
    priority = models.IntegerField(
        default=100,
        validators=[MinValueValidator(-1_000_000), MaxValueValidator(1_000_000)],
        help_text="Lower runs first.",
    )
    settings = models.JSONField(default=dict, blank=True)
    on_error = models.CharField(
        max_length=8, choices=OnError.choices, default=OnError.OPEN, help_text="What a failure of the plugin means."
    )
    slow_seconds = models.FloatField(
        default=0.5,
        validators=[MinValueValidator(0.001), MaxValueValidator(3600)],
        help_text="A plugin that takes longer in one request is warned of.",
    )
    timeout_seconds = models.FloatField(
        default=10.0,
        validators=[MinValueValidator(0.01), MaxValueValidator(3600)],
        help_text="A call that takes longer has failed; for plugins that are not built in.",
    )
    max_failures = models.PositiveIntegerField(
        default=5,
        validators=[MinValueValidator(1), MaxValueValidator(1_000_000)],
        help_text="So many failures in a row switch it off.",
    )
    retry_seconds = models.FloatField(
        default=60.0,
        validators=[MinValueValidator(0), MaxValueValidator(86400)],
        help_text="After so long one request tries a plugin again that was switched off; 0: never.",
    )
    load_time = models.FloatField(null=True, blank=True, editable=False)
    loaded_at = models.DateTimeField(null=True, blank=True, editable=False)
    circuit = models.CharField(max_length=8, choices=Circuit.choices, default=Circuit.CLOSED, editable=False)
    circuit_opened_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_error = models.CharField(max_length=500, blank=True, editable=False)
    last_error_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ("priority", "id")

    def __str__(self) -> str:
        return self.id

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as the API takes and shows it."""
        return {
            "enabled": self.enabled,
            "priority": self.priority,
            "settings": self.settings,
            "on_error": self.on_error,
            "slow_seconds": self.slow_seconds,
            "timeout_seconds": self.timeout_seconds,
            "max_failures": self.max_failures,
            "retry_seconds": self.retry_seconds,
        }

    def circuit_state(self, now: datetime) -> str:
        """`closed`, `open`, or `half_open` once it is to be tried again."""
        if self.circuit == self.Circuit.CLOSED or self.circuit_opened_at is None:
            return "closed"
        retried = self.retry_seconds > 0 and now >= self.circuit_opened_at + timedelta(seconds=self.retry_seconds)
        return "half_open" if retried else "open"
