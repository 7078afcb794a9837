"""Work too big for one request: files, jobs, their items, and who is told of their ends.

These rows are the truth. Redis and the workers only carry what runs just now.
"""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone


class File(models.Model):
    """Prompts that were uploaded, in chunks, or the answers of a job, which are read from its items."""

    class Purpose(models.TextChoices):
        BATCH = "batch"
        BATCH_OUTPUT = "batch_output"

    class Format(models.TextChoices):
        JSONL = "jsonl"
        CSV = "csv"

    id = models.CharField(primary_key=True, max_length=48)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    name = models.CharField(max_length=255)
    purpose = models.CharField(max_length=16, choices=Purpose.choices, default=Purpose.BATCH)
    format = models.CharField(max_length=8, choices=Format.choices, default=Format.JSONL)
    size = models.PositiveBigIntegerField(default=0)
    is_complete = models.BooleanField(default=False, help_text="Whether all of it has arrived.")
    job = models.ForeignKey("Job", null=True, blank=True, on_delete=models.CASCADE, related_name="output_files")
    errors = models.BooleanField(default=False, help_text="Of a job's answers: those that are errors.")
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-created_at", "-id")
        indexes = (models.Index(fields=["owner", "created_at"], name="file_owner_created"),)

    def __str__(self) -> str:
        return self.id


class FileChunk(models.Model):
    """A part of an uploaded file, small enough to be held in memory."""

    file = models.ForeignKey(File, on_delete=models.CASCADE, related_name="chunks")
    number = models.PositiveIntegerField()
    data = models.BinaryField()

    class Meta:
        ordering = ("file", "number")
        constraints = (models.UniqueConstraint(fields=["file", "number"], name="one_chunk_of_a_number"),)

    def __str__(self) -> str:
        return f"{self.file_id} {self.number}"


class Job(models.Model):
    """One job of one user. `total` counts the items known so far; the others of them have ended.

    A job whose input is a file is `validating` until every line of it is an item; `read_lines` of them have been read.
    """

    class State(models.TextChoices):
        VALIDATING = "validating"
        QUEUED = "queued"
        RUNNING = "running"
        COMPLETED = "completed"
        FAILED = "failed"
        CANCELLED = "cancelled"
        EXPIRED = "expired"

    class Kind(models.TextChoices):
        INFER = "infer"
        BATCH = "batch_infer"
        CHAT_COMPLETIONS = "chat_completions"
        COMPLETIONS = "completions"
        EMBEDDINGS = "embeddings"

    UNFINISHED = (State.VALIDATING, State.QUEUED, State.RUNNING)

    id = models.CharField(primary_key=True, max_length=48)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="jobs")
    key = models.ForeignKey("accounts.ApiKey", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    key_prefix = models.CharField(max_length=16, blank=True, help_text="Of the key it came with, if it came with one.")
    kind = models.CharField(max_length=20, choices=Kind.choices)
    is_openai_batch = models.BooleanField(default=False)
    state = models.CharField(max_length=12, choices=State.choices, default=State.QUEUED)
    name = models.CharField(max_length=200, blank=True)
    model = models.CharField(max_length=200, blank=True, help_text="As it was asked for.")
    defaults = models.JSONField(default=dict, blank=True, help_text="Parameters of all items.")
    metadata = models.JSONField(default=dict, blank=True)
    input_file = models.ForeignKey(File, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    read_lines = models.PositiveIntegerField(default=0)
    total = models.PositiveIntegerField(default=0)
    completed = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    cancelled = models.PositiveIntegerField(default=0)
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    completion_tokens = models.PositiveBigIntegerField(default=0)
    output_bytes = models.PositiveBigIntegerField(default=0)
    error_bytes = models.PositiveBigIntegerField(default=0)
    waits_for = models.CharField(max_length=32, blank=True, help_text="What keeps it from going on.")
    waits_until = models.DateTimeField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)
    webhook_url = models.CharField(max_length=2000, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(help_text="What has not ended by then is given up.")
    keep_until = models.DateTimeField(null=True, blank=True, help_text="It and its answers are deleted then.")

    class Meta:
        ordering = ("-created_at", "-id")
        indexes = (
            models.Index(fields=["owner", "created_at"], name="job_owner_created"),
            models.Index(fields=["state"], name="job_state"),
        )

    def __str__(self) -> str:
        return self.id

    @property
    def ended(self) -> int:
        """How many items have ended."""
        return self.completed + self.failed + self.cancelled

    @property
    def is_unfinished(self) -> bool:
        return self.state in self.UNFINISHED


class JobItem(models.Model):
    """One prompt of a job, and its one result.

    `run` names the dispatcher that has it in work; a result counts only while it is still that one's. `attempts`
    counts the runs that ended by no fault of the prompt's that anybody could see.
    """

    class State(models.TextChoices):
        PENDING = "pending"
        RUNNING = "running"
        COMPLETED = "completed"
        FAILED = "failed"
        CANCELLED = "cancelled"

    UNFINISHED = (State.PENDING, State.RUNNING)

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="items")
    index = models.PositiveIntegerField()
    custom_id = models.CharField(max_length=512)
    body = models.JSONField(null=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    run = models.CharField(max_length=32, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    not_before = models.DateTimeField(null=True, blank=True)
    result = models.TextField(blank=True, help_text="Its line of the answers, as JSON.")
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("job", "index")
        constraints = (models.UniqueConstraint(fields=["job", "index"], name="one_item_of_an_index"),)
        indexes = (
            # What is to be sent, and what is in work: few rows of many.
            models.Index(
                fields=["job", "attempts", "index"],
                name="item_unfinished",
                condition=Q(state__in=("pending", "running")),
            ),
        )

    def __str__(self) -> str:
        return f"{self.job_id} {self.index}"


class DispatcherLease(models.Model):
    """The one dispatcher that works just now, by a name that is new with every start. There is one row."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    holder = models.CharField(max_length=32, blank=True)
    until = models.DateTimeField()

    def __str__(self) -> str:
        return self.holder


class WebhookDelivery(models.Model):
    """One message to a job's webhook. Its id stays the same over all attempts, so that a receiver can tell a repeat."""

    class State(models.TextChoices):
        WAITING = "waiting"
        DELIVERED = "delivered"
        GIVEN_UP = "given_up"

    id = models.CharField(primary_key=True, max_length=48)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=32)
    url = models.CharField(max_length=2000)
    body = models.TextField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField(default=timezone.now)
    last_status = models.PositiveSmallIntegerField(null=True, blank=True)
    last_error = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-created_at",)
        verbose_name_plural = "webhook deliveries"
        constraints = (models.UniqueConstraint(fields=["job", "event"], name="one_delivery_of_an_event"),)
        indexes = (models.Index(fields=["state", "next_at"], name="delivery_due"),)

    def __str__(self) -> str:
        return self.id
