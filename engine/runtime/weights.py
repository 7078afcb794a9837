"""A model folder's weights: found, checked against what the configuration promises, and read one tensor at a time."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.runtime.runner import ModelLoadError

logger = logging.getLogger(__name__)

_PICKLES = ("*.bin", "*.pt", "*.pth")
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler")  # what trainers leave beside them


class WeightFiles:
    """Tensors by name. Pages of a file are read as its tensors are; `close` lets go of the files."""

    def __init__(self, folder: Path, *, allow_pickle: bool) -> None:
        """Raises ModelLoadError for files that are missing, cut short, or of a kind that isn't allowed."""
        self._where: dict[str, Any] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        files = _safetensors(folder)
        if files:
            for file in files:
                with _explained(file):
                    handle = safe_open(file, "pt")
                    self._where.update(dict.fromkeys(handle.keys(), handle))
            return
        pickles = sorted(file for kind in _PICKLES for file in folder.glob(kind) if file.stem not in _NO_WEIGHTS)
        if not pickles:
            raise ModelLoadError("MODEL_LOAD_FAILED", f"there are no weights (*.safetensors) in {folder.name}")
        if not allow_pickle:
            raise ModelLoadError(
                "MODEL_LOAD_FAILED",
                f"the weights in {folder.name} are pickles ({pickles[0].name}), which may run code when they are read; "
                "convert them to safetensors, or have an admin allow pickle for this model",
            )
        for file in pickles:
            with _explained(file):
                found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
                self._tensors.update({name: item for name, item in found.items() if isinstance(item, torch.Tensor)})

    def check(self, expected: Mapping[str, torch.Size]) -> None:
        """Raises ModelLoadError unless every tensor is there, in its shape."""
        refuse_missing(name for name in expected if name not in self)
        for name, shape in expected.items():
            found = self._shape(name)
            if found != tuple(shape):
                raise ModelLoadError(
                    "MODEL_LOAD_FAILED",
                    f"the weight {name} is {list(found)} in the files, but config.json makes it {list(shape)}",
                )

    def __contains__(self, name: str) -> bool:
        return name in self._where or name in self._tensors

    def read(self, name: str) -> torch.Tensor:
        """A tensor that may lie in the file's own pages: copy what shall stay. Raises ModelLoadError."""
        if name in self._tensors:
            return self._tensors[name]
        with _explained(Path(name)):
            tensor: torch.Tensor = self._where[name].get_tensor(name)
        return tensor

    def close(self) -> None:
        self._where.clear()
        self._tensors.clear()

    def _shape(self, name: str) -> tuple[int, ...]:
        if name in self._tensors:
            return tuple(self._tensors[name].shape)
        return tuple(self._where[name].get_slice(name).get_shape())


def refuse_missing(names: Iterable[str]) -> None:
    """Raises ModelLoadError if there are any: a model with random weights in place of them would answer nonsense."""
    missing = sorted(names)
    if missing:
        raise ModelLoadError(
            "MODEL_LOAD_FAILED",
            f"{len(missing)} of the weights that config.json asks for are not in the files, such as {missing[0]}",
        )


def _safetensors(folder: Path) -> list[Path]:
    """The files that the index names, else all there are."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        single = folder / "model.safetensors"
        return [single] if single.exists() else sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [folder / Path(name).name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError("MODEL_LOAD_FAILED", f"{index.name} can't be read: it is no index of weights") from error
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise ModelLoadError("MODEL_LOAD_FAILED", f"{index.name} names {missing[0]}, which is not there")
    return files


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Errors of the libraries as a sentence without a path."""
    try:
        yield
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        logger.warning("%s can't be read: %s", file.name, error)
        raise ModelLoadError(
            "MODEL_LOAD_FAILED", f"{file.name} can't be read: it is cut short or no file of weights"
        ) from error
