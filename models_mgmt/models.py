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

    @property
    def weight_bytes(self) -> int | None:
        """What the weights take up in 16 bits, the width that the engine prefers; None if their number is unknown."""
        return self.parameters * 2 if self.parameters else None


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
