"""A model's files, brought to this host: what a worker prepares before it starts an engine."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from django.conf import settings

from models_mgmt import demo
from models_mgmt.conversion import ConversionError, converted_folder, ensure_converted, identity_of, share_of
from models_mgmt.facts import facts_of, shape_of
from models_mgmt.hub import Hub
from models_mgmt.hub_transfer import Unreachable
from models_mgmt.inspection import PICKLES, InspectionError, ModelFiles, inspect, weight_files
from models_mgmt.looking import inspected, parts_of
from models_mgmt.model_roots import check_files, is_inside, outside
from models_mgmt.models import Model
from models_mgmt.safety import pickles_refused, refuse_unsafe
from models_mgmt.source_error import SourceError

__all__ = ["OnProgress", "SourceError", "prepare"]

OnProgress = Callable[[str, float], None]
Kind = Model.SourceKind
# Beside the weights: what configurations, tokenizers and chat templates are stored in.
_SMALL_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_MAX_SMALL = 64 * 1024**2
_REPORT_SECONDS = 0.1


def prepare(model: Model, on_progress: OnProgress) -> Path:
    """The folder that an engine can load a model from, downloaded or converted if need be. Raises SourceError.

    Called in a worker, as often as it likes: what is there already is checked and used. `on_progress` gets a stage
    (`download` or `convert`) and how far it is, from 0 to 1; an exception of its ends the work, and what is done of a
    download stays. The model's row keeps the place and what the files say.
    """
    try:
        folder = _prepared(model, _throttled(on_progress))
        if folder is None:
            return Path()
        shape = inspected(folder)
        refuse_unsafe(shape, trust_remote_code=model.trust_remote_code, allow_pickle=model.allow_pickle)
    except SourceError as error:
        if error.code == "INVALID_INPUT":  # it was right when it was registered
            raise SourceError("MODEL_LOAD_FAILED", error.message) from error
        raise
    if model.path != str(folder) or not model.shape:
        if (before := shape_of(model.shape)) is not None and before.gguf_type:  # which its conversion does not tell
            shape = msgspec.structs.replace(shape, gguf_type=before.gguf_type)
        facts = facts_of(shape, f"{model.id} {model.name}", kind=model.type if model.shape else None)
        Model.objects.filter(pk=model.pk).update(path=str(folder), **facts)
        model.path = str(folder)
    return folder


def _prepared(model: Model, report: OnProgress) -> Path | None:
    """None for the echo model, which has no files."""
    match model.source_kind:
        case Kind.ECHO:
            return None
        case Kind.DEMO:
            return _prepared_demo(report)
        case Kind.FOLDER:
            return _local(model.source or model.path)
        case Kind.GGUF:
            return _converted(_local(model.source), report, model.shape)
        case Kind.HUB:
            return _downloaded(model, report)
        case _:
            raise SourceError("MODEL_LOAD_FAILED", f"Models of the kind {model.source_kind} can't be prepared.")


def _prepared_demo(report: OnProgress) -> Path:
    def say(line: str) -> None:
        share = share_of(line)
        if share is not None:
            report("convert", share)

    try:
        return demo.ensure_demo_model(models_dir=settings.MODELS_DIR, say=say)
    except demo.DemoModelError as error:
        raise SourceError("MODEL_LOAD_FAILED", str(error)) from error


def _local(source: str) -> Path:
    if not source:
        raise SourceError("MODEL_LOAD_FAILED", "The model has no files.")
    path = Path(source)
    if not is_inside(path):
        raise outside()
    if not path.exists():
        raise SourceError("MODEL_LOAD_FAILED", f"{path.name} is no longer where it was registered.")
    if path.is_dir():
        check_files(path)
    return path


def _downloaded(model: Model, report: OnProgress) -> Path:
    parts = parts_of(model.source)
    if parts is None:
        raise SourceError("MODEL_LOAD_FAILED", "The source is no repository of a hub.")
    repo, gguf = parts
    hub = Hub.configured()
    folder = hub.folder(repo, model.commit) if model.commit else None
    if folder is None or not _is_whole(folder, gguf, model):
        try:
            snapshot = hub.look_up(repo, model.commit or model.revision)
            names = _wanted(hub.files(snapshot), gguf, model)
            folder = hub.download(snapshot, names, lambda got, total: report("download", got / max(1, total)))
        except Unreachable as reason:
            raise SourceError(
                "BACKEND_UNAVAILABLE",
                f"The hub can't be reached ({reason}), and its cache on this host does not hold all of {repo}.",
            ) from reason
    return _converted(folder / gguf, report, model.shape) if gguf else folder


def _is_whole(folder: Path, gguf: str, model: Model) -> bool:
    """Whether the cache holds all of it. Pickles don't tell whether they are whole; a finished download does."""
    try:
        shape = inspect(folder / gguf if gguf else folder)
    except (InspectionError, OSError):
        return False
    if shape.has_pickle:
        return model.path == str(folder)
    return not (shape.has_remote_code and model.trust_remote_code and not any(folder.glob("*.py")))


def _wanted(files: ModelFiles, gguf: str, model: Model) -> list[str]:
    """The files to download, small ones first, so that a folder with its weights has everything."""
    if gguf:
        if gguf not in files.sizes:
            raise SourceError("MODEL_LOAD_FAILED", f"The repository no longer has the file {gguf}.")
        return [gguf]
    weights = weight_files(files)
    if weights[0].endswith(PICKLES) and not model.allow_pickle:
        raise pickles_refused()
    suffixes = (*_SMALL_SUFFIXES, ".py") if model.trust_remote_code else _SMALL_SUFFIXES
    small = [
        name
        for name, size in sorted(files.sizes.items())
        if name.endswith(suffixes) and name not in weights and not name.endswith(PICKLES) and size <= _MAX_SMALL
    ]
    return small + weights


def _converted(gguf: Path, report: OnProgress, shape: Mapping[str, int] | None) -> Path:
    def on_line(line: str) -> None:
        share = share_of(line)
        if share is not None:
            report("convert", share)

    folder = converted_folder(gguf, settings.MODELS_DIR)
    parameters = shape["parameters"] if shape else inspected(gguf).parameters
    try:
        ensure_converted(
            gguf,
            folder,
            identity=identity_of(gguf),
            needed_bytes=parameters * 2 + 64 * 1024**2,
            on_line=on_line,
            on_wait=lambda: report("convert", 0.0),
        )
        report("convert", 1.0)
    except ConversionError as error:
        raise SourceError("MODEL_LOAD_FAILED", str(error)) from error
    except OSError as error:
        raise SourceError(
            "MODEL_LOAD_FAILED", f"{gguf.name} can't be converted: {error.strerror or type(error).__name__}."
        ) from error
    return folder


def _throttled(on_progress: OnProgress) -> OnProgress:
    """Tells each stage's beginning and end, and what is between ten times a second."""
    last: tuple[str, float] = ("", 0.0)

    def report(stage: str, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if stage != last[0] or share >= 1.0 or now - last[1] >= _REPORT_SECONDS:
            last = (stage, now)
            on_progress(stage, min(1.0, share))

    return report
