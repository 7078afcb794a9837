"""Bytes from a hub: a file continued where it stopped, and the beginnings of files that are not downloaded."""

import errno
import hashlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub.errors import HfHubHTTPError, HTTPError  # the latter of the HTTP library that it uses
from huggingface_hub.utils import get_session, hf_raise_for_status

_READ_SECONDS = 30.0
_MAX_PEEK = 128 * 1024**2
_CHUNK = 512 * 1024
_PIECE = 128 * 1024
_TRIES = 5
_PAUSE_SECONDS = 1.0


class Unreachable(Exception):
    """The hub does not answer; the text says how that showed."""


def continue_file(
    url: str, file: BinaryIO, headers: dict[str, str], size: int, on_bytes: Callable[[int], None]
) -> None:
    """Fetch what is missing of a file of `size` bytes that is open for appending; each piece is kept as it comes.

    A connection that breaks is made anew, until it breaks _TRIES times in a row without a byte. Raises HTTPError,
    Unreachable and OSError.
    """
    failures = 0
    while (have := file.tell()) < size:
        try:
            _append(url, file, headers, size, on_bytes)
            failure: Exception = Unreachable("it ends the file too early")
        except HTTPError as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise
            failure = error
        failures = 0 if file.tell() > have else failures + 1
        if failures >= _TRIES:
            raise failure
        if file.tell() < size:
            time.sleep(_PAUSE_SECONDS)


def _append(url: str, file: BinaryIO, headers: dict[str, str], size: int, on_bytes: Callable[[int], None]) -> None:
    have = file.tell()
    wanted = {**headers, "Range": f"bytes={have}-"} if have else headers
    with get_session().stream("GET", url, headers=wanted, timeout=_READ_SECONDS) as response:
        hf_raise_for_status(response)
        if have and response.status_code == 200:  # it knows no ranges
            file.truncate(0)
            have = 0
        for chunk in response.iter_bytes(_PIECE):
            file.write(chunk[: size - have])
            have += len(chunk)
            on_bytes(min(have, size))
            if have >= size:
                return


def hash_of(path: Path, *, kind: str) -> str:
    """`sha256` of a file's content, or the `git` hash of it as a blob."""
    with path.open("rb") as file:
        if kind == "sha256":
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


def open_remote(url: str, headers: dict[str, str], size: int, refusal: Callable[[Exception], Exception]) -> BinaryIO:
    """A file on the hub to read the beginning of. `refusal` makes of an HTTP error what reading then raises."""
    return io.BufferedReader(_RemoteReader(url, headers, size, refusal), buffer_size=_CHUNK)


class _RemoteReader(io.RawIOBase):
    """The bytes of a file on the hub, asked for by range as they are read."""

    def __init__(self, url: str, headers: dict[str, str], size: int, refusal: Callable[[Exception], Exception]) -> None:
        self._refusal = refusal
        self._url = url
        self._headers = headers
        self._size = size
        self._position = 0
        self._transferred = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._next(self._size)

    def _next(self, count: int) -> bytes:
        count = min(count, self._size - self._position)
        self._transferred += count
        if self._transferred > _MAX_PEEK:
            raise OSError(errno.EFBIG, "its header is larger than a header can be")
        data = self._range(self._position, count) if count > 0 else b""
        self._position += len(data)
        return data

    def _range(self, start: int, count: int) -> bytes:
        headers = {**self._headers, "Range": f"bytes={start}-{start + count - 1}"}
        try:
            with get_session().stream("GET", self._url, headers=headers, timeout=_READ_SECONDS) as response:
                hf_raise_for_status(response)
                data = bytearray()
                skip = start if response.status_code == 200 else 0
                for chunk in response.iter_bytes(_CHUNK):
                    data += chunk
                    if len(data) >= skip + count:
                        break
                return bytes(data[skip : skip + count])
        except HTTPError as error:
            raise self._refusal(error) from error
