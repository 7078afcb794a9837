"""What is kept of the hosts, the requests and the log, to be looked at later.

Times that are grouped by are whole Unix minutes or seconds: a week of them is read at once, and integers need no
conversion. Lists of figures are JSON in text columns, read by msgspec for the same reason.
"""

import logging

from django.db import models


class HostSample(models.Model):
    """One reading of a host and its GPUs. `gpus`: JSON, the fields of `gpus.Gpu` of each."""

    host = models.CharField(max_length=200)
    at = models.FloatField(help_text="Unix time.")
    minute = models.PositiveIntegerField(help_text="The Unix minute of `at`.")
    cpu_usage = models.FloatField(help_text="Percent.")
    cpu_cores = models.PositiveIntegerField()
    memory_used = models.PositiveBigIntegerField(help_text="Bytes.")
    memory_total = models.PositiveBigIntegerField()
    disk_used = models.PositiveBigIntegerField()
    disk_total = models.PositiveBigIntegerField()
    network_rx = models.FloatField(help_text="Bytes per second.")
    network_tx = models.FloatField()
    gpus = models.TextField(default="[]")

    class Meta:
        indexes = (models.Index(fields=["minute", "host"], name="sample_minute_host"),)

    def __str__(self) -> str:
        return f"{self.host} at {self.at:.0f}"


class HostMinute(models.Model):
    """The mean of a host's samples of one minute. `gpus`: JSON, a `gpus.GpuMinute`."""

    minute = models.PositiveIntegerField()
    host = models.CharField(max_length=200)
    cpu_usage = models.FloatField()
    cpu_cores = models.PositiveIntegerField()
    memory_used = models.PositiveBigIntegerField()
    memory_total = models.PositiveBigIntegerField()
    gpus = models.TextField(default="[[],[],[]]")

    class Meta:
        constraints = (models.UniqueConstraint(fields=("minute", "host"), name="one_minute_a_host"),)

    def __str__(self) -> str:
        return f"{self.host} in minute {self.minute}"


class RequestBucket(models.Model):
    """The requests that ended in one span of time: of one model, or of all (`model` is empty).

    `seconds` is the span's length; it begins at `start`, a multiple of it in Unix time. There is a row for each length
    of settings.METRICS_GRANULARITIES, since percentiles of long spans can't be had from those of short ones. The
    percentiles are of completed requests, in seconds, and at most 1 % off; `latencies` and `first_tokens` are what they
    are read from (JSON, see `monitoring.distribution`).
    """

    seconds = models.PositiveIntegerField()
    model = models.CharField(max_length=200, blank=True)
    start = models.PositiveBigIntegerField()
    requests = models.PositiveIntegerField(default=0)
    completed = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    cancelled = models.PositiveIntegerField(default=0)
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    completion_tokens = models.PositiveBigIntegerField(default=0)
    total_time = models.FloatField(default=0.0, help_text="Seconds, of all completed requests together.")
    first_token_time = models.FloatField(default=0.0)
    latency_p50 = models.FloatField(null=True)
    latency_p95 = models.FloatField(null=True)
    latency_p99 = models.FloatField(null=True)
    first_token_p50 = models.FloatField(null=True)
    first_token_p95 = models.FloatField(null=True)
    first_token_p99 = models.FloatField(null=True)
    latencies = models.TextField(default="{}")
    first_tokens = models.TextField(default="{}")

    class Meta:
        constraints = (models.UniqueConstraint(fields=("seconds", "model", "start"), name="one_bucket"),)

    def __str__(self) -> str:
        return f"{self.model or 'all models'}, {self.seconds} s from {self.start}"


class QueueMinute(models.Model):
    """How many requests waited, read every few seconds of one minute: of one model, or of all (`model` is empty)."""

    minute = models.PositiveIntegerField()
    model = models.CharField(max_length=200, blank=True)
    readings = models.PositiveIntegerField(default=0)
    waiting = models.PositiveBigIntegerField(default=0, help_text="The sum of all readings.")
    most = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("model", "minute"), name="one_queue_minute"),)

    def __str__(self) -> str:
        return f"{self.model or 'all models'} in minute {self.minute}"


class PackedHour(models.Model):
    """A finished Unix hour, and whether its `PackedFigures` are what the minutes are now."""

    hour = models.PositiveIntegerField(primary_key=True)
    packed = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"hour {self.hour}"


class PackedFigures(models.Model):
    """A part of the answer that an hour gives in steps of `seconds`: of the hosts, of a model (or all, if `model` is
    empty), or of a model that was idle then. `figures`: JSON, an `answers.Part`.
    """

    class Part(models.TextChoices):
        HOSTS = "hosts"
        MODEL = "model"
        IDLE = "idle"

    hour = models.PositiveIntegerField()
    seconds = models.PositiveIntegerField()
    part = models.CharField(max_length=8, choices=Part.choices)
    model = models.CharField(max_length=200, blank=True)
    figures = models.TextField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("seconds", "hour", "part", "model"), name="one_pack"),)

    def __str__(self) -> str:
        return f"{self.part} {self.model} in hour {self.hour} by {self.seconds} s"


class LogEntry(models.Model):
    """One line of the log, of any process. Its traceback, if it had one, is only where the process writes its lines."""

    class Level(models.IntegerChoices):
        DEBUG = logging.DEBUG, "debug"
        INFO = logging.INFO, "info"
        WARNING = logging.WARNING, "warning"
        ERROR = logging.ERROR, "error"

    at = models.DateTimeField()
    level = models.PositiveSmallIntegerField(choices=Level.choices)
    component = models.CharField(max_length=64)
    logger = models.CharField(max_length=200)
    message = models.TextField()
    metadata = models.JSONField(default=dict, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    host = models.CharField(max_length=200)
    process = models.CharField(max_length=64, help_text="Such as `web` or `worker-cuda0`.")

    class Meta:
        ordering = ("-at", "-id")
        verbose_name_plural = "log entries"
        indexes = (
            models.Index(fields=["at", "id"], name="log_at"),
            models.Index(fields=["level", "at"], name="log_level_at"),
            models.Index(fields=["request_id"], name="log_request"),
        )

    def __str__(self) -> str:
        return f"{self.get_level_display()} of {self.component}"
