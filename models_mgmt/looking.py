"""What a source of a model is and holds, found out before anything of it is downloaded or converted."""

import re
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from models_mgmt import demo
from models_mgmt.hub import REPO_PATTERN, Hub, check_revision
from models_mgmt.hub_transfer import Unreachable
from models_mgmt.inspection import InspectionError, ModelFiles, ModelShape, inspect, inspect_files, inspect_gguf
from models_mgmt.model_roots import check_files, find_local
from models_mgmt.models import Model
from models_mgmt.safety import refuse_unsafe
from models_mgmt.source_error import SourceError

Kind = Model.SourceKind
_HUB_SOURCE = re.compile(rf"({REPO_PATTERN})(?:/([A-Za-z0-9_][A-Za-z0-9._+-]*\.gguf))?")


@dataclass(frozen=True, slots=True)
class Described:
    """A source that was looked at. `shape` is None for what has no files yet, or never has."""

    kind: str
    source: str
    name: str
    revision: str = ""
    commit: str = ""
    path: str = ""
    shape: ModelShape | None = None


def describe(
    source: str, *, kind: str = "", revision: str = "", trust_remote_code: bool = False, allow_pickle: bool = False
) -> Described:
    """What a source is and holds, without downloading its weights. Raises SourceError.

    A source is `demo`, `echo`, a folder or GGUF file under a model root, a hub's repository (`org/name`), or a GGUF
    file in one (`org/name/file.gguf`). Without a `kind`, something that exists under a root goes before a repository.
    """
    if kind in (Kind.DEMO, Kind.ECHO) or (not kind and source in (Kind.DEMO, Kind.ECHO)):
        return _described_built_in(kind or source)
    path = find_local(source) if kind != Kind.HUB else None
    if path is not None:
        found = _described_local(path)
    elif kind in ("", Kind.HUB) and (parts := parts_of(source)):
        found = _described_remote(source, *parts, revision)
    else:
        raise _nothing_there(source, kind)
    if kind and kind != found.kind:
        raise SourceError("INVALID_INPUT", f"This source is a {found.kind}, no {kind}.", field="source_kind")
    if revision and found.kind != Kind.HUB:
        raise SourceError("INVALID_INPUT", "Only a repository of a hub has revisions.", field="revision")
    if found.shape is not None:
        refuse_unsafe(found.shape, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    return found


def parts_of(source: str) -> tuple[str, str] | None:
    """Repository and GGUF file ("" for none) of a hub's source; None for what is no such source."""
    match = _HUB_SOURCE.fullmatch(source)
    return (match[1], match[2] or "") if match else None


def inspected(path: Path) -> ModelShape:
    """`inspect`, with its refusal as that of the source. Raises SourceError."""
    try:
        return inspect(path)
    except InspectionError as error:
        raise SourceError("INVALID_INPUT", str(error), field="source") from error


def shape_of_files(files: ModelFiles, gguf: str) -> ModelShape:
    """What a folder of files holds, or a GGUF file in it. Raises SourceError."""
    try:
        if not gguf:
            return inspect_files(files)
        if gguf not in files.sizes:
            raise SourceError("INVALID_INPUT", f"The repository has no file {gguf}.", field="source")
        with files.open(gguf) as file:
            return inspect_gguf(file, name=gguf, size=files.sizes[gguf])
    except InspectionError as error:
        raise SourceError("INVALID_INPUT", str(error), field="source") from error


def _described_built_in(kind: str) -> Described:
    if kind == Kind.ECHO:
        return Described(kind=Kind.ECHO, source="", name="Echo")
    folder = settings.MODELS_DIR / demo.MODEL_ID
    ready = demo.is_ready(folder)
    return Described(
        kind=Kind.DEMO,
        source=demo.WHEEL,
        name=demo.MODEL_ID,
        path=str(folder) if ready else "",
        shape=inspect(folder) if ready else None,
    )


def _described_local(path: Path) -> Described:
    if path.is_dir():
        check_files(path)
        return Described(kind=Kind.FOLDER, source=str(path), name=path.name, path=str(path), shape=inspected(path))
    if path.suffix != ".gguf":
        raise SourceError(
            "INVALID_INPUT",
            f"{path.name} is no GGUF file; name the folder of a model, or a .gguf file.",
            field="source",
        )
    return Described(kind=Kind.GGUF, source=str(path), name=path.stem, shape=inspected(path))


def _described_remote(source: str, repo: str, gguf: str, revision: str) -> Described:
    if revision:
        check_revision(revision)
    hub = Hub.configured()
    try:
        snapshot = hub.look_up(repo, revision)
        hub.remember(snapshot, revision)
        commit, shape = snapshot.commit, shape_of_files(hub.files(snapshot), gguf)
    except Unreachable as reason:
        commit, shape = _from_cache(hub, repo, revision, gguf, reason)
    name = Path(gguf).stem if gguf else repo.split("/")[1]
    return Described(kind=Kind.HUB, source=source, name=name, revision=revision, commit=commit, shape=shape)


def _from_cache(hub: Hub, repo: str, revision: str, gguf: str, reason: Exception) -> tuple[str, ModelShape]:
    commit = hub.cached_commit(repo, revision)
    folder = hub.folder(repo, commit) if commit else None
    if commit is None or folder is None or not folder.is_dir():
        raise SourceError(
            "BACKEND_UNAVAILABLE",
            f"The hub can't be reached ({reason}), and its cache on this host does not hold {repo}.",
            field="source",
        ) from reason
    return commit, inspected(folder / gguf if gguf else folder)


def _nothing_there(source: str, kind: str) -> SourceError:
    if kind == Kind.HUB or (not kind and _looks_like_repo(source)):
        words = "A repository of a hub is named as org/name, or org/name/file.gguf for a GGUF file in it."
    else:
        words = "There is no such folder or GGUF file under the model roots, and it is no repository (org/name)."
    return SourceError("INVALID_INPUT", words, field="source")


def _looks_like_repo(source: str) -> bool:
    return source.count("/") in (1, 2) and not source.startswith(("/", "."))
