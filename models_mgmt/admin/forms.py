"""The forms of the registry: what an operator says of a model; everything else is read from its files."""

from typing import Any

from django import forms

from models_mgmt.looking import Described, describe
from models_mgmt.models import Model
from models_mgmt.source_error import SourceError

_FLAGS = ("pinned", "trust_remote_code", "allow_pickle")


class AliasesField(forms.CharField):
    """Names, separated by commas."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            required=False,
            help_text="Other names that requests may use, separated by commas. One that another model has moves here.",
            widget=forms.TextInput(attrs={"class": "vTextField"}),
            **options,
        )

    def clean(self, value: Any) -> list[str]:
        return [name.strip() for name in super().clean(value).split(",") if name.strip()]


class _LookingForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs only
    """Looks at the source while it is checked; what is wrong with that is told at its field."""

    described: Described | None = None

    def look(self, source: str, *, kind: str, revision: str) -> None:
        fields = self.cleaned_data
        try:
            self.described = describe(
                source,
                kind=kind,
                revision=revision,
                trust_remote_code=fields.get("trust_remote_code", False),
                allow_pickle=fields.get("allow_pickle", False),
            )
        except SourceError as error:
            self.add_error(error.field if error.field in self.fields else None, error.message)


class NewModelForm(_LookingForm):
    """A model to register."""

    source = forms.CharField(
        max_length=500,
        help_text="A repository of the hub (org/name), a GGUF file in one (org/name/file.gguf), a folder or GGUF file "
        "under a model root, or demo.",
        widget=forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
    )
    source_kind = forms.ChoiceField(
        choices=[("", "as it looks"), *Model.SourceKind.choices], required=False, label="What the source is"
    )
    id = forms.CharField(
        required=False, max_length=100, help_text="As requests will name it; as its source is called if left empty."
    )
    name = forms.CharField(required=False, max_length=200, help_text="For people.")
    aliases = AliasesField()

    class Meta:
        model = Model
        fields = ("source", "source_kind", "revision", "name", "is_default", *_FLAGS)

    def clean(self) -> dict[str, Any]:
        fields = super().clean() or self.cleaned_data
        if "source" in fields:
            self.look(fields["source"], kind=fields.get("source_kind", ""), revision=fields.get("revision", ""))
        return fields


class ModelForm(_LookingForm):
    """What can be changed about a model. A new revision is looked at."""

    aliases = AliasesField()

    class Meta:
        model = Model
        fields = ("name", "type", "is_default", "revision", "enabled", *_FLAGS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["aliases"].initial = ", ".join(self.instance.aliases.values_list("name", flat=True))
        if self.instance.source_kind != Model.SourceKind.HUB and "revision" in self.fields:
            del self.fields["revision"]

    def clean(self) -> dict[str, Any]:
        fields = super().clean() or self.cleaned_data
        if "revision" in self.changed_data:
            model = Model.objects.get(pk=self.instance.pk)
            self.look(model.source, kind=model.source_kind, revision=fields.get("revision", ""))
        return fields
