"""What a model's record says of it, worked out from its files' shape."""

from typing import Any

import msgspec

from models_mgmt.inspection import ModelShape


def facts_of(shape: ModelShape, name: str, *, kind: str | None = None) -> dict[str, Any]:
    """The columns of a Model that its files decide. `kind` is its type where an operator knows better."""
    kind = kind or type_of(shape, name)
    return {
        "architecture": shape.architecture,
        "parameters": shape.parameters,
        "vocab_size": shape.vocab_size,
        "context_length": shape.context_length or None,
        "size": size_label(shape.parameters),
        "type": kind,
        "capabilities": capabilities_of(kind),
        "shape": msgspec.to_builtins(shape),
    }


def shape_of(columns: dict[str, Any] | None) -> ModelShape | None:
    """The shape that a record keeps, if it keeps one that this version can read."""
    try:
        return msgspec.convert(columns, ModelShape) if columns else None
    except msgspec.ValidationError:
        return None


def type_of(shape: ModelShape, name: str) -> str:
    """A chat template makes a model `chat`, or `instruct` if it is called so; any other one is `base`."""
    if not shape.has_chat_template:
        return "base"
    return "instruct" if "instruct" in name.lower() else "chat"


def capabilities_of(kind: str) -> list[str]:
    return ["text-generation"] if kind == "base" else ["text-generation", kind]


def size_label(parameters: int) -> str:
    """`135M`, `1.2B`, `7B`: as models are called."""
    if parameters < 1_000_000:
        return f"{max(1, round(parameters / 1000))}K"
    if parameters < 999_500_000:
        return f"{round(parameters / 1_000_000)}M"
    billions = parameters / 1_000_000_000
    text = f"{billions:.1f}" if billions < 5 else f"{billions:.0f}"
    return f"{text.removesuffix('.0')}B"
