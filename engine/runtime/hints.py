"""What the engine should know of a converted model beside its config.json: a small file in the model's folder."""

import json
from pathlib import Path

_NAME = "engine.json"


def write_hints(folder: Path, *, quantization: str) -> None:
    """`quantization`: what the source's weights are held in without loss."""
    (folder / _NAME).write_text(json.dumps({"quantization": quantization}))


def hinted_quantization(folder: Path) -> str | None:
    """What `write_hints` wrote, or None for a folder without hints."""
    path = folder / _NAME
    return str(json.loads(path.read_text())["quantization"]) if path.exists() else None
