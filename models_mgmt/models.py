"""The registry of models."""

from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z"


def default_capabilities() -> list[str]:
    return ["text-generation"]


class Model(models.Model):
    """A model that can be loaded. Where it runs now is not here: workers announce that themselves."""

    class Type(models.TextChoices):
        BASE = "base"
        CHAT = "chat"
        INSTRUCT = "instruct"

    class SourceKind(models.TextChoices):
        DEMO = "demo"
        FOLDER = "folder"
        GGUF = "gguf"
        HUB = "hub"
        ECHO = "echo"

    id = models.CharField(
        primary_key=True, max_length=100, validators=[RegexValidator(ID_PATTERN)], help_text="As requests name it."
    )
    name = models.CharField(max_length=200)
    size = models.CharField(max_length=16, blank=True, help_text='Parameters for people, such as "135M".')
    type = models.CharField(max_length=8, choices=Type.choices, default=Type.BASE)
    source_kind = models.CharField(max_length=8, choices=SourceKind.choices)
    source = models.CharField(max_length=500, blank=True, help_text="Repository, folder or file it comes from.")
    revision = models.CharField(
        max_length=100, blank=True, help_text="Branch, tag or commit asked for of a repository; empty for its default."
    )
    commit = models.CharField(
        max_length=64, blank=True, help_text="The commit that the revision meant when it was read."
    )
    path = models.CharField(
        max_length=500, blank=True, help_text="Folder ready to be loaded; empty before it is prepared."
    )
    is_default = models.BooleanField(default=False)
    context_length = models.PositiveIntegerField(null=True, blank=True)
    parameters = models.PositiveBigIntegerField(null=True, blank=True)
    vocab_size = models.PositiveIntegerField(null=True, blank=True)
    architecture = models.CharField(max_length=100, blank=True)
    capabilities = models.JSONField(default=default_capabilities, blank=True)
    shape = models.JSONField(null=True, blank=True, help_text="What its files say, as models_mgmt.inspection reads it.")
    trust_remote_code = models.BooleanField(
        default=False, help_text="Run Python code that comes with this model. It can do whatever this server can."
    )
    allow_pickle = models.BooleanField(
        default=False, help_text="Read weights stored as pickles. They can run whatever their author wrote."
    )
    pinned = models.BooleanField(default=False, help_text="Never unloaded for being idle or to make room.")
    enabled = models.BooleanField(default=True, help_text="Whether requests may name it.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(fields=("is_default",), condition=Q(is_default=True), name="one_default_model"),
        )

    def __str__(self) -> str:
        return self.id


class ModelAlias(models.Model):
    """Another name of a model. Names of models and aliases are one set: no name means two models."""

    name = models.CharField(
        max_length=100, unique=True, validators=[RegexValidator(ID_PATTERN)], help_text="As requests name it."
    )
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="aliases")

    class Meta:
        ordering = ("name",)
        verbose_name_plural = "aliases"

    def __str__(self) -> str:
        return self.name


class Deployment(models.Model):
    """A model on a device: what is wanted there, and the last that was known of it.

    Workers write how it goes; what they hold at this moment they announce themselves (`models_mgmt.presence`). There is
    one row for each model and each worker (host and home device), used again at the next load.
    """

    class State(models.TextChoices):
        REQUESTED = "requested"
        LOADING = "loading"
        LOADED = "loaded"
        UNLOADING = "unloading"
        UNLOADED = "unloaded"
        FAILED = "failed"
        LOST = "lost"

    class Origin(models.TextChoices):
        ASKED = "asked", "asked for by an administrator"
        DEMAND = "demand", "loaded for a request"
        START = "start", "loaded when the server started"

    WANTED = (State.REQUESTED, State.LOADING, State.LOADED)

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="deployments")
    host = models.CharField(max_length=200)
    device = models.CharField(max_length=16, help_text="Whose worker owns the engine.")
    devices = models.JSONField(default=list, help_text="Where its layers lie.")
    state = models.CharField(max_length=12, choices=State.choices, default=State.REQUESTED)
    origin = models.CharField(max_length=8, choices=Origin.choices, default=Origin.ASKED)
    quantization = models.CharField(max_length=8, default="auto", help_text="As it was asked for.")
    context_length = models.PositiveIntegerField(null=True, blank=True, help_text="As it was asked for.")
    max_memory_bytes = models.PositiveBigIntegerField(default=0, help_text="What it may take at most; 0: no limit.")
    evicts = models.JSONField(default=list, blank=True, help_text="Models to be unloaded first.")
    estimated_bytes = models.PositiveBigIntegerField(default=0, help_text="What it was expected to take; 0: unknown.")
    measured_bytes = models.PositiveBigIntegerField(null=True, blank=True, help_text="What it took once loaded.")
    load_time = models.FloatField(null=True, blank=True, help_text="Seconds.")
    error_code = models.CharField(max_length=32, blank=True)
    error = models.TextField(blank=True)
    error_details = models.JSONField(default=dict, blank=True)
    requested_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)
    loaded_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("model_id", "host", "device")
        constraints = (models.UniqueConstraint(fields=("model", "host", "device"), name="one_deployment_a_worker"),)

    def __str__(self) -> str:
        return f"{self.model_id} on {self.host}/{self.device}"

    @property
    def is_wanted(self) -> bool:
        return self.state in self.WANTED

    @property
    def share_bytes(self) -> int:
        """What each of its devices was expected to give."""
        return self.estimated_bytes // max(1, len(set(self.devices)))
