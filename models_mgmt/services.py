"""What can be done with the registry of models."""

from collections.abc import Sequence

from django.db import transaction

from models_mgmt.models import Model, default_capabilities
from models_mgmt.selectors import forget_models


@transaction.atomic
def ensure_model(
    *,
    id: str,  # noqa: A002  # the field's name
    name: str,
    source_kind: str,
    source: str = "",
    path: str = "",
    size: str = "",
    type: str = Model.Type.BASE,  # noqa: A002  # the field's name
    is_default: bool = False,
    context_length: int | None = None,
    parameters: int | None = None,
    vocab_size: int | None = None,
    architecture: str = "",
    capabilities: Sequence[str] | None = None,
) -> Model:
    """Make or update the row of a model; one that becomes the default takes the mark from the one before it."""
    if is_default:
        Model.objects.filter(is_default=True).exclude(pk=id).update(is_default=False)
    model, _ = Model.objects.update_or_create(
        id=id,
        defaults={
            "name": name,
            "source_kind": source_kind,
            "source": source,
            "path": path,
            "size": size,
            "type": type,
            "is_default": is_default,
            "context_length": context_length,
            "parameters": parameters,
            "vocab_size": vocab_size,
            "architecture": architecture,
            "capabilities": list(capabilities) if capabilities is not None else default_capabilities(),
        },
    )
    forget_models()
    return model
