"""What is known about models; nothing here writes."""

import functools
import operator
import re

from asgiref.sync import sync_to_async
from django.db.models import Q, QuerySet

from common.errors import ModelNotFound
from common.short_memory import ShortMemory
from models_mgmt.models import ID_PATTERN, Deployment, Model

DEFAULT = "default"

_resolved: ShortMemory[str, Model] = ShortMemory(seconds=1.0, size=1000)


def resolve_model(name: str | None) -> Model:
    """The enabled model of that id or alias; the default one for "default", "" and None. Raises ModelNotFound."""
    wanted = name or DEFAULT
    if wanted != DEFAULT and not re.fullmatch(ID_PATTERN, wanted):
        raise ModelNotFound
    enabled = Model.objects.filter(enabled=True)
    named = Q(is_default=True) if wanted == DEFAULT else Q(pk=wanted) | Q(aliases__name=wanted)
    model = enabled.filter(named).first()
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


def find_models(*, search: str = "", type: str = "", source_kind: str = "", enabled: bool = True) -> QuerySet[Model]:  # noqa: A002
    """The enabled models, or the disabled ones; `search` is part of an id, a name, an alias or an architecture."""
    models = Model.objects.filter(enabled=enabled).prefetch_related("aliases")
    if search:
        columns = ("id", "name", "architecture", "aliases__name")
        parts = [Q(**{f"{column}__icontains": search}) for column in columns]
        models = models.filter(functools.reduce(operator.or_, parts)).distinct()
    if type:
        models = models.filter(type=type)
    if source_kind:
        models = models.filter(source_kind=source_kind)
    return models


def known_deployments() -> QuerySet[Deployment]:
    """The deployments that are wanted, on their way in or out, failed or lost."""
    return Deployment.objects.exclude(state=Deployment.State.UNLOADED)
