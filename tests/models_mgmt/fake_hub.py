"""A hub on this machine: as much of the Hugging Face hub's HTTP API as registering and downloading models needs.

Answers as https://huggingface.co/docs/hub/api describes: a repository's files with sizes and hashes at a revision, and
the files themselves, by range. What it is told to do wrong, it does: refuse, end a file early, ignore ranges, damage.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_LARGE = 1024
_API = re.compile(r"/api/models/([^/]+/[^/?]+)(?:/revision/([^/?]+))?(?:\?.*)?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^/?]+)")


class FakeHub:
    """`requests`: what was asked, as (method, path, range). `cuts`: after how many bytes the next answers break off."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self.token = ""
        self.gated: set[str] = set()
        self.is_down = False
        self.cuts: dict[str, list[int]] = {}
        self.damaged: set[str] = set()
        self.ignores_ranges = False
        self.pause_seconds = 0.0
        self.url = ""
        self._files: dict[tuple[str, str], dict[str, bytes]] = {}
        self._references: dict[tuple[str, str], str] = {}

    def push(self, repo: str, files: dict[str, bytes], *, branch: str = "main") -> str:
        """Commit these files; returns the commit."""
        content = b"".join(name.encode() + data for name, data in sorted(files.items()))
        commit = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        self._files[repo, commit] = files
        self._references[repo, branch] = commit
        return commit

    def commit_of(self, repo: str, revision: str) -> str | None:
        if (repo, revision) in self._files:
            return revision
        return self._references.get((repo, revision))

    def has(self, repo: str) -> bool:
        return any(name == repo for name, _ in self._files)

    def files(self, repo: str, commit: str) -> dict[str, bytes]:
        return self._files.get((repo, commit), {})


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        hub = self.hub
        hub.requests.append((self.command, self.path, self.headers.get("Range", "")))
        time.sleep(hub.pause_seconds)
        if hub.is_down:
            self._refuse(503, "")
        elif hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._refuse(401, "RepoNotFound")
        elif match := _API.fullmatch(self.path):
            self._describe(match[1], match[2] or "main")
        elif match := _FILE.fullmatch(self.path):
            self._send_file(match[1], match[2], match[3], with_body)
        else:
            self._refuse(404, "EntryNotFound")

    def _describe(self, repo: str, revision: str) -> None:
        if not self.hub.has(repo):
            self._refuse(404, "RepoNotFound")
            return
        commit = self.hub.commit_of(repo, revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
            return
        siblings = [_sibling(name, data) for name, data in self.hub.files(repo, commit).items()]
        body = {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "tags": [], "private": False}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _send_file(self, repo: str, commit: str, name: str, with_body: bool) -> None:
        commit = self.hub.commit_of(repo, commit) or ""
        data = self.hub.files(repo, commit).get(name)
        if repo in self.hub.gated:
            self._refuse(403, "GatedRepo")
            return
        if data is None:
            self._refuse(404, "EntryNotFound")
            return
        if name in self.hub.damaged:
            data = bytes(len(data))
        status, headers, part = 200, {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": commit}, data
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and not self.hub.ignores_ranges:
            start, end = int(wanted[1]), int(wanted[2] or len(data) - 1)
            part = data[start : end + 1]
            status = 206
            headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        self._send(status, part if with_body else b"", headers, length=len(part), name=name)

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, length: int = -1, name: str = "") -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body) if length < 0 else length)}.items():
            self.send_header(key, value)
        self.end_headers()
        cuts = self.hub.cuts.get(name, [])
        if cuts and len(body) > cuts[0]:
            body = body[: cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"})


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": _git_hash(data)}
    if len(data) > _LARGE:
        sibling["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
    return sibling


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if len(data) > _LARGE else _git_hash(data)


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
