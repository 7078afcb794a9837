"""What could run its author's code is refused, unless an administrator flagged that one model."""

from models_mgmt.inspection import ModelShape, is_native
from models_mgmt.source_error import SourceError


def refuse_unsafe(shape: ModelShape, *, trust_remote_code: bool, allow_pickle: bool) -> None:
    """Refuse pickles and code of its own, each by the flag that would allow it. Raises SourceError."""
    if shape.has_pickle and not allow_pickle:
        raise pickles_refused()
    if shape.has_remote_code and not is_native(shape.model_type) and not trust_remote_code:
        raise SourceError(
            "INVALID_INPUT",
            "The model needs Python code that comes with its files; read that code, and set trust_remote_code on this "
            "model if you trust it.",
            field="trust_remote_code",
        )


def pickles_refused() -> SourceError:
    return SourceError(
        "INVALID_INPUT",
        "The weights are stored as pickles, which can run any code when they are read; take a version in safetensors, "
        "or set allow_pickle on this model if you trust its author.",
        field="allow_pickle",
    )
