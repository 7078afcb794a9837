"""The folders that local models may lie in; nothing outside of them is ever opened for a caller."""

from pathlib import Path

from django.conf import settings

from models_mgmt.source_error import SourceError


def model_roots() -> tuple[Path, ...]:
    return tuple(dict.fromkeys(path.resolve() for path in (settings.MODELS_DIR, *settings.MODEL_ROOTS)))


def find_local(source: str) -> Path | None:
    """What a source means on this host: an absolute path, or one under a model root. None if there is no such thing.

    Raises SourceError for one outside of the model roots, links followed.
    """
    if "\0" in source or len(source) > 500:
        raise _no_path()
    given = Path(source)
    candidates = [given] if given.is_absolute() else [root / given for root in model_roots()]
    try:
        for candidate in candidates:
            path = candidate.resolve()
            if not is_inside(path):
                raise outside()
            if path.exists():
                return path
    except (OSError, RuntimeError) as error:  # a name that is too long, links that go round
        raise _no_path() from error
    return None


def is_inside(path: Path) -> bool:
    """Whether a path, links followed, is within a model root."""
    resolved = path.resolve()
    return any(resolved.is_relative_to(root) and resolved != root for root in model_roots())


def check_files(folder: Path) -> None:
    """Refuse a folder that has links to files outside of the model roots. Raises SourceError."""
    for path in folder.iterdir():
        if path.is_symlink() and not is_inside(path):
            raise SourceError(
                "INVALID_INPUT", f"{path.name} is a link to a place outside of the model roots.", field="source"
            )


def shown(path: str) -> str:
    """A local source as callers may see it: under its root, not where that lies."""
    for root in model_roots():
        if Path(path).is_relative_to(root):
            return str(Path(path).relative_to(root))
    return Path(path).name


def _no_path() -> SourceError:
    return SourceError("INVALID_INPUT", "This is no path of a file or folder.", field="source")


def outside() -> SourceError:
    return SourceError(
        "INVALID_INPUT",
        "Local models must lie within the model roots; move it there, or add its folder to LLAMA_GPU_MODEL_ROOTS.",
        field="source",
    )
