"""What can be done with the registry of models."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import transaction

from accounts.audit import SERVER, Actor, record
from common.errors import Conflict, InvalidInput, ModelNotFound
from models_mgmt.facts import capabilities_of, facts_of, shape_of
from models_mgmt.looking import Described
from models_mgmt.models import ID_PATTERN, Model, ModelAlias, default_capabilities
from models_mgmt.selectors import DEFAULT, forget_models

_MAX_ALIASES = 20
_PLAIN = ("name", "pinned", "enabled", "trust_remote_code", "allow_pickle")


@transaction.atomic
def register_model(
    described: Described,
    *,
    id: str = "",  # noqa: A002  # the field's name
    name: str = "",
    type: str = "",  # noqa: A002  # the field's name
    default: bool = False,
    aliases: Sequence[str] = (),
    pinned: bool = False,
    enabled: bool = True,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    actor: Actor = SERVER,
) -> Model:
    """Add a model of a source that was looked at. Without an id it is called as its source is.

    Raises InvalidInput, and Conflict when the id is taken.
    """
    _one_at_a_time()
    model = Model(
        id=_new_id(id or _id_from(described.name)),
        name=name or described.name,
        source_kind=described.kind,
        source=described.source,
        revision=described.revision,
        commit=described.commit,
        path=described.path,
        pinned=pinned,
        enabled=enabled,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    _take_facts(model, described, type)
    model.save(force_insert=True)
    _set_aliases(model, aliases)
    if default:
        _make_default(model)
    record(
        "model.register",
        actor=actor,
        target_type="model",
        target_id=model.id,
        target_name=model.name,
        changes={field: (None, value) for field, value in _audited(model).items() if value},
    )
    transaction.on_commit(forget_models)
    return model


@transaction.atomic
def update_model(
    model_id: str, changes: Mapping[str, Any], *, described: Described | None = None, actor: Actor = SERVER
) -> Model:
    """Change what an operator decides about a model; its other facts come from its files.

    `changes`: name, type, default, aliases, pinned, enabled, trust_remote_code, allow_pickle. `described`: the source
    as it is now, when it was looked at anew. Flags act at the next load. Raises ModelNotFound and InvalidInput.
    """
    _one_at_a_time()
    model = registered_model(model_id)
    before = _audited(model)
    if model.is_default and changes.get("enabled") is False:
        raise InvalidInput("The default model can't be disabled; make another one the default first.", field="enabled")
    if model.is_default and changes.get("default") is False:
        raise InvalidInput("Make another model the default instead.", field="default")
    for field in _PLAIN:
        if field in changes:
            setattr(model, field, changes[field])
    if described is not None:
        model.revision, model.commit, model.path = described.revision, described.commit, described.path
    if described is not None or "type" in changes:
        _take_facts(model, described, changes.get("type") or model.type)
    model.save()
    if "aliases" in changes:
        _set_aliases(model, changes["aliases"])
    if changes.get("default"):
        _make_default(model)
    after = _audited(model)
    record(
        "model.update",
        actor=actor,
        target_type="model",
        target_id=model.id,
        target_name=model.name,
        changes={field: (before[field], after[field]) for field in after if before[field] != after[field]},
    )
    transaction.on_commit(forget_models)
    return model


@transaction.atomic
def delete_model(model_id: str, *, held_by: Iterable[str], force: bool = False, actor: Actor = SERVER) -> None:
    """Take a model out of the registry; its files stay where they are.

    `held_by`: the places where workers hold or load it. Raises ModelNotFound, and Conflict for a model that is held or
    the default one, unless forced.
    """
    _one_at_a_time()
    model = registered_model(model_id)
    places = sorted(held_by)
    if places and not force:
        raise Conflict(
            "The model is loaded or being loaded; unload it first, or delete it with force=true.",
            details={"loaded_on": places},
        )
    if model.is_default and not force:
        raise Conflict("This is the default model; make another one the default first, or delete it with force=true.")
    record(
        "model.delete",
        actor=actor,
        target_type="model",
        target_id=model.id,
        target_name=model.name,
        changes={field: (value, None) for field, value in _audited(model).items() if value},
    )
    model.delete()
    transaction.on_commit(forget_models)


def registered_model(model_id: str) -> Model:
    """The model of that id, enabled or not. Raises ModelNotFound."""
    model = Model.objects.filter(pk=model_id).first() if re.fullmatch(ID_PATTERN, model_id) else None
    if model is None:
        raise ModelNotFound(details={"model": model_id[:100]})
    return model


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


@transaction.atomic
def ensure_described(
    described: Described,
    *,
    id: str,  # noqa: A002  # the field's name
    name: str,
    is_default: bool,
) -> Model:
    """Make a model that comes with the server, or bring what its files say up to date; what operators set stays."""
    model = Model.objects.filter(pk=id).first()
    if model is None:
        model = Model(id=id, name=name, source_kind=described.kind)
    model.source, model.path = described.source, described.path
    _take_facts(model, described, model.type if model.shape else "")
    if is_default:
        model.enabled = True
    model.save()
    if is_default:
        _make_default(model)
    forget_models()
    return model


# ------------------------------------------------------------ names


def _one_at_a_time() -> None:
    """Names of models and aliases are one set, which no constraint can hold; so changes wait for each other."""
    list(Model.objects.select_for_update().order_by("pk").values_list("pk", flat=True))


def _id_from(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:100]


def _new_id(wanted: str) -> str:
    _check_name(wanted, field="id")
    if Model.objects.filter(pk=wanted).exists():
        raise Conflict(f"There is a model called {wanted} already.", details={"field": "id"})
    alias = ModelAlias.objects.filter(name=wanted).first()
    if alias is not None:
        raise Conflict(f"{wanted} is an alias of {alias.model_id}.", details={"field": "id"})
    return wanted


def _check_name(name: str, *, field: str) -> None:
    if not re.fullmatch(ID_PATTERN, name):
        raise InvalidInput(
            "A name begins with a letter or digit and has up to 100 letters, digits, dots, dashes and underscores.",
            field=field,
        )
    if name == DEFAULT:
        raise InvalidInput(f'"{DEFAULT}" always means the default model; take another name.', field=field)


def _set_aliases(model: Model, names: Sequence[str]) -> None:
    """Exactly these; one that another model has moves to this one, and what was sent to it before still ends there."""
    wanted = list(dict.fromkeys(names))
    if len(wanted) > _MAX_ALIASES:
        raise InvalidInput(f"A model can have up to {_MAX_ALIASES} aliases.", field="aliases")
    for name in wanted:
        _check_name(name, field="aliases")
        if Model.objects.filter(pk=name).exists():
            raise InvalidInput(f"{name} is a model's own id.", field="aliases")
    model.aliases.exclude(name__in=wanted).delete()
    for name in wanted:
        ModelAlias.objects.update_or_create(name=name, defaults={"model": model})


def _make_default(model: Model) -> None:
    if not model.enabled:
        raise InvalidInput("A disabled model can't be the default.", field="default")
    Model.objects.filter(is_default=True).exclude(pk=model.pk).update(is_default=False)
    if not model.is_default:
        model.is_default = True
        model.save(update_fields=["is_default", "updated_at"])


# ------------------------------------------------------------ facts


def _take_facts(model: Model, described: Described | None, kind: str) -> None:
    """The columns that the files decide. `kind`: the type that an operator chose, "" for the files' own."""
    shape = described.shape if described is not None else shape_of(model.shape)
    if shape is not None:
        if kind not in ("", Model.Type.BASE) and not shape.has_chat_template:
            raise InvalidInput(f"The model has no chat template, so it can't be {kind}.", field="type")
        for field, value in facts_of(shape, f"{model.id} {model.name}", kind=kind or None).items():
            setattr(model, field, value)
    elif kind:
        model.type, model.capabilities = kind, capabilities_of(kind)


def _audited(model: Model) -> dict[str, Any]:
    """What of a model the audit tells. Paths of this host stay out of it."""
    return {
        "name": model.name,
        "type": model.type,
        "source_kind": model.source_kind,
        "source": model.source if model.source_kind == Model.SourceKind.HUB else "",
        "revision": model.revision,
        "commit": model.commit,
        "default": model.is_default,
        "aliases": sorted(model.aliases.values_list("name", flat=True)) if model.pk else [],
        "pinned": model.pinned,
        "enabled": model.enabled,
        "trust_remote_code": model.trust_remote_code,
        "allow_pickle": model.allow_pickle,
    }
