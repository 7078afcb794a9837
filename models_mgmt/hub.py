"""Repositories of a Hugging Face hub: what is in them, and their files in the hub's own cache layout.

huggingface_hub speaks with the hub. Its own download forgets a file that a killed process had half of, so the files are
fetched here: into one `.partial` file each, continued at the next try, and checked against their hash. They end up in
the layout of huggingface_hub's cache, which any other program may share
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache).
"""

import errno
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from django.conf import settings
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the HTTP library that the installed huggingface_hub uses
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers

from common.byte_sizes import format_bytes
from models_mgmt.file_lock import exclusive
from models_mgmt.hub_transfer import Unreachable, continue_file, hash_of, open_remote
from models_mgmt.source_error import SourceError

REPO_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
_ASK_SECONDS = 10.0
_DEFAULT_REVISION = "main"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """`etag`: the SHA-256 of a large file, or the git blob's SHA-1 of a small one; the cache names blobs by it."""

    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit. `files`: those at its top, by name."""

    repo: str
    commit: str
    files: Mapping[str, RemoteFile]


class Hub:
    """A hub and its cache. Raises SourceError for what the hub refuses, and Unreachable when it does not answer."""

    def __init__(self, *, endpoint: str, cache: Path, token: str = "", offline: bool = False) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._cache = cache
        self._token = token
        self._offline = offline

    @classmethod
    def configured(cls) -> "Hub":
        return cls(
            endpoint=settings.HUB_ENDPOINT,
            cache=settings.HUB_CACHE,
            token=settings.HUB_TOKEN,
            offline=settings.HUB_OFFLINE,
        )

    def look_up(self, repo: str, revision: str) -> Snapshot:
        """Ask the hub what a repository holds at a branch, tag or commit ("" is its default branch)."""
        if self._offline:
            raise Unreachable("this server is set to work offline")
        try:
            info = HfApi(endpoint=self._endpoint, token=self._token or False).model_info(
                repo, revision=revision or None, files_metadata=True, timeout=_ASK_SECONDS
            )
        except (HTTPError, HFValidationError, OSError) as error:
            raise self._refusal(error, repo, revision) from error
        commit = info.sha or ""
        if not _COMMIT.fullmatch(commit):
            raise SourceError("MODEL_LOAD_FAILED", f"The hub names no commit of {repo}.")
        files = {}
        for sibling in info.siblings or ():
            etag = (sibling.lfs.sha256 if sibling.lfs else sibling.blob_id) or ""
            if _FILE_NAME.fullmatch(sibling.rfilename) and _COMMIT.fullmatch(etag) and sibling.size is not None:
                files[sibling.rfilename] = RemoteFile(sibling.size, etag)
        return Snapshot(repo, commit, files)

    def cached_commit(self, repo: str, revision: str) -> str | None:
        """The commit that a revision meant when the cache last heard of it."""
        if _COMMIT.fullmatch(revision):
            return revision
        reference = self._storage(repo) / "refs" / check_revision(revision or _DEFAULT_REVISION)
        try:
            commit = reference.read_text().strip()
        except OSError:
            return None
        return commit if _COMMIT.fullmatch(commit) else None

    def folder(self, repo: str, commit: str) -> Path:
        """Where the files of a commit lie once they are downloaded."""
        return self._storage(repo) / "snapshots" / commit

    def remember(self, snapshot: Snapshot, revision: str) -> None:
        """Note in the cache what a revision means now, so that it is known offline."""
        if not _COMMIT.fullmatch(revision):
            reference = self._storage(snapshot.repo) / "refs" / check_revision(revision or _DEFAULT_REVISION)
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(snapshot.commit)

    def download(self, snapshot: Snapshot, names: Iterable[str], on_bytes: Callable[[int, int], None]) -> Path:
        """Bring files into the cache, going on where an earlier try stopped; returns their folder.

        `on_bytes` gets the bytes that are there and those that will be; an exception of its ends the download.
        """
        folder = self.folder(snapshot.repo, snapshot.commit)
        wanted = [name for name in names if not (folder / name).exists()]
        there = sum(snapshot.files[name].size for name in names if name not in wanted)
        total = there + sum(snapshot.files[name].size for name in wanted)
        if wanted:
            self._check_disk(snapshot, wanted)
        for name in wanted:
            self._fetch(snapshot, name, _counting_from(there, total, on_bytes))
            there += snapshot.files[name].size
            on_bytes(there, total)
        return folder

    def files(self, snapshot: Snapshot) -> "HubFiles":
        return HubFiles(self, snapshot)

    def open(self, snapshot: Snapshot, name: str) -> BinaryIO:
        """A file to read the beginning of: the cached one, or what the hub sends of it."""
        cached = self.folder(snapshot.repo, snapshot.commit) / name
        if cached.exists():
            return cached.open("rb")
        return open_remote(
            self._url(snapshot, name),
            self._headers(),
            snapshot.files[name].size,
            lambda error: self._refusal(error, snapshot.repo, snapshot.commit),
        )

    # ------------------------------------------------------------ one file

    def _fetch(self, snapshot: Snapshot, name: str, on_bytes: Callable[[int], None]) -> None:
        remote = snapshot.files[name]
        storage = self._storage(snapshot.repo)
        blob = storage / "blobs" / remote.etag
        with exclusive(storage / "blobs" / f".{remote.etag}.lock"):
            if not blob.exists():
                self._fetch_blob(snapshot, name, blob, on_bytes)
        pointer = self.folder(snapshot.repo, snapshot.commit) / name
        pointer.parent.mkdir(parents=True, exist_ok=True)
        if not pointer.exists():
            pointer.unlink(missing_ok=True)
            pointer.symlink_to(Path("..") / ".." / "blobs" / remote.etag)

    def _fetch_blob(self, snapshot: Snapshot, name: str, blob: Path, on_bytes: Callable[[int], None]) -> None:
        remote = snapshot.files[name]
        partial = _partial_of(blob)
        try:
            with partial.open("ab") as file:
                if file.tell() > remote.size:
                    file.truncate(0)
                continue_file(self._url(snapshot, name), file, self._headers(), remote.size, on_bytes)
        except (HTTPError, OSError) as error:
            if _is_full_disk(error):
                raise SourceError(
                    "MODEL_LOAD_FAILED", f"The disk is full, so {name} could not be downloaded."
                ) from error
            raise self._refusal(error, snapshot.repo, snapshot.commit) from error
        if hash_of(partial, kind="sha256" if len(remote.etag) == 64 else "git") != remote.etag:
            partial.unlink()
            raise SourceError(
                "MODEL_LOAD_FAILED",
                f"{name} of {snapshot.repo} came damaged: its hash is not the one that the hub tells. Try again.",
            )
        partial.replace(blob)

    def _check_disk(self, snapshot: Snapshot, names: list[str]) -> None:
        storage = self._storage(snapshot.repo)
        storage.mkdir(parents=True, exist_ok=True)
        missing = {snapshot.files[name] for name in names}  # files that are alike are kept once
        needed = sum(file.size - _bytes_there(storage / "blobs" / file.etag, file.size) for file in missing)
        free = shutil.disk_usage(storage).free
        if free < needed:
            raise SourceError(
                "MODEL_LOAD_FAILED",
                f"Downloading {snapshot.repo} needs {format_bytes(needed)} of disk, and the hub's cache has "
                f"{format_bytes(free)} free; free some space, or set LLAMA_GPU_HUB_CACHE to a folder that has it.",
            )

    # ------------------------------------------------------------ addresses and refusals

    def _storage(self, repo: str) -> Path:
        return self._cache / f"models--{repo.replace('/', '--')}"

    def _url(self, snapshot: Snapshot, name: str) -> str:
        return str(hf_hub_url(snapshot.repo, name, revision=snapshot.commit, endpoint=self._endpoint))

    def _headers(self) -> dict[str, str]:
        return {**build_hf_headers(token=self._token or False), "Accept-Encoding": "identity"}

    def _refusal(self, error: Exception, repo: str, revision: str) -> Exception:
        """What an error of huggingface_hub means to the operator."""
        if isinstance(error, GatedRepoError):
            return SourceError(
                "INVALID_INPUT",
                f"The repository {repo} is gated; accept its terms on the hub, and set LLAMA_GPU_HUB_TOKEN to a token "
                "of that account.",
                field="source",
            )
        if isinstance(error, RevisionNotFoundError):
            return SourceError(
                "INVALID_INPUT", f"The repository {repo} has no revision {revision!r}.", field="revision"
            )
        if isinstance(error, RepositoryNotFoundError | HFValidationError):
            return SourceError(
                "INVALID_INPUT",
                f"The hub has no repository {repo} that this server may read; check its name, or set "
                "LLAMA_GPU_HUB_TOKEN if it is private.",
                field="source",
            )
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            status = error.response.status_code
            if status in {401, 403}:
                return SourceError(
                    "INVALID_INPUT",
                    f"The hub refused {repo} ({status}); check LLAMA_GPU_HUB_TOKEN.",
                    field="source",
                )
            return Unreachable(f"it answers with status {status}")
        return Unreachable(f"{type(error).__name__}")


class HubFiles:
    """The files of a snapshot, for models_mgmt.inspection: nothing but the beginnings that it reads is transferred."""

    def __init__(self, hub: Hub, snapshot: Snapshot) -> None:
        self._hub = hub
        self._snapshot = snapshot
        self.sizes = {name: file.size for name, file in snapshot.files.items()}

    def open(self, name: str) -> BinaryIO:
        return self._hub.open(self._snapshot, name)


def check_revision(revision: str) -> str:
    """A name of a branch, tag or commit that is also safe as a path in the cache. Raises SourceError."""
    if not _REVISION.fullmatch(revision) or len(revision) > 100 or revision.endswith(".lock") or ".." in revision:
        raise SourceError("INVALID_INPUT", "This is no name of a branch, tag or commit.", field="revision")
    return revision


def _counting_from(before: int, total: int, on_bytes: Callable[[int, int], None]) -> Callable[[int], None]:
    return lambda got: on_bytes(before + got, total)


def _bytes_there(blob: Path, size: int) -> int:
    """How much of a file an earlier download has left."""
    if blob.exists():
        return size
    partial = _partial_of(blob)
    found = partial.stat().st_size if partial.exists() else 0
    return found if found <= size else 0


def _partial_of(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.partial")


def _is_full_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
