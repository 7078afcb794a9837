"""What is known about models; nothing here writes."""

import re

from asgiref.sync import sync_to_async
from django.db.models import Q, QuerySet

from common.errors import ModelNotFound
from common.short_memory import ShortMemory
from models_mgmt.models import ID_PATTERN, Model

DEFAULT = "default"

_resolved: ShortMemory[str, Model] = ShortMemory(seconds=1.0, size=1000)


def resolve_model(name: str | None) -> Model:
    """The enabled model of that id; for "default", "" and None the one marked default. Raises ModelNotFound."""
    wanted = name or DEFAULT
    if wanted != DEFAULT and not re.fullmatch(ID_PATTERN, wanted):
        raise ModelNotFound
    enabled = Model.objects.filter(enabled=True)
    model = (enabled.filter(is_default=True) if wanted == DEFAULT else enabled.filter(pk=wanted)).first()
    if model is None:
        raise ModelNotFound(details={"model": wanted})
    return model


async def aresolve_model(name: str | None) -> Model:
    """`resolve_model` for coroutines; the answer may be a second old."""
    wanted = name or DEFAULT
    model = _resolved.recall(wanted)
    if model is None:
        model = await sync_to_async(resolve_model)(wanted)
        _resolved.keep(wanted, model)
    return model


def forget_models() -> None:
    """Drop what this process remembers, so that a change acts at once in it."""
    _resolved.clear()


def find_models(*, search: str = "") -> QuerySet[Model]:
    """The enabled models whose id or name contains `search`."""
    models = Model.objects.filter(enabled=True)
    return models.filter(Q(id__icontains=search) | Q(name__icontains=search)) if search else models
