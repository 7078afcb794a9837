"""What is kept of a request: figures, never its text."""

from django.conf import settings
from django.db import models


class RequestRecord(models.Model):
    """One ended request, or one item of a batch. Written by the worker, off the hot path.

    Times are in seconds. From the request's arrival: `auth_time` until its caller was let in, `door_time` until it was
    submitted. From its submission: `taken_time` until a worker took it, `prepared_time` until the plugins before it had
    run, `accept_time` until an engine accepted it, `total_time` until the end. The others are as the engine measured
    them, one after the other. 0 is what it has not come to.
    """

    class State(models.TextChoices):
        COMPLETED = "completed"
        FAILED = "failed"
        CANCELLED = "cancelled"

    class Kind(models.TextChoices):
        INFER = "infer"
        BATCH = "batch_infer"
        STREAM = "stream_infer"
        CHAT_COMPLETIONS = "chat_completions"
        COMPLETIONS = "completions"
        EMBEDDINGS = "embeddings"

    request_id = models.CharField(max_length=64, db_index=True)
    item = models.PositiveIntegerField(default=0)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        db_constraint=False,  # a user deleted meanwhile must not cost a batch of rows
    )
    key = models.ForeignKey(
        "accounts.ApiKey", null=True, blank=True, on_delete=models.SET_NULL, related_name="+", db_constraint=False
    )
    model = models.CharField(max_length=200)
    kind = models.CharField(max_length=16, choices=Kind.choices)
    state = models.CharField(max_length=16, choices=State.choices)
    finish_reason = models.CharField(max_length=16, blank=True)
    cancel_reason = models.CharField(max_length=32, blank=True)
    error_code = models.CharField(max_length=64, blank=True)
    backend = models.CharField(max_length=16)
    worker = models.CharField(max_length=200)
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    cached_tokens = models.PositiveIntegerField(default=0)
    auth_time = models.FloatField(default=0.0)
    door_time = models.FloatField(default=0.0)
    taken_time = models.FloatField(default=0.0)
    prepared_time = models.FloatField(default=0.0)
    accept_time = models.FloatField(default=0.0)
    queue_time = models.FloatField(default=0.0)
    prefill_time = models.FloatField(default=0.0)
    decode_time = models.FloatField(default=0.0)
    total_time = models.FloatField(default=0.0)
    plugins = models.JSONField(
        default=dict, blank=True, help_text="Seconds, calls and failures of each plugin that ran in it."
    )
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("-created_at", "-id")
        indexes = (
            models.Index(fields=["created_at"], name="record_created"),
            models.Index(fields=["model", "created_at"], name="record_model_created"),
            models.Index(fields=["user", "created_at"], name="record_user_created"),
        )

    def __str__(self) -> str:
        return f"{self.request_id} {self.state}"

    @property
    def response_time(self) -> float:
        """Seconds from the request's arrival until its end."""
        return self.door_time + self.total_time

    @property
    def first_token_time(self) -> float:
        """Seconds from the request's arrival until its first token, if it has come to that: what its caller waited."""
        return self.door_time + self.accept_time + self.queue_time + self.prefill_time


class ModelTotal(models.Model):
    """Sums over all requests of a model; seconds are those of completed ones, decoding leaves first tokens out."""

    model = models.CharField(max_length=200, primary_key=True)
    requests = models.PositiveBigIntegerField(default=0)
    completed = models.PositiveBigIntegerField(default=0)
    latency = models.FloatField(default=0.0)
    decoded_tokens = models.PositiveBigIntegerField(default=0)
    decode_seconds = models.FloatField(default=0.0)

    def __str__(self) -> str:
        return self.model
