"""Takes files out of requests, without holding one in memory: forms, and bodies that are a file."""

from collections.abc import Iterable, Iterator
from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, UnreadablePostError
from django.http.multipartparser import MultiPartParserError

from common.errors import InvalidInput, UnsupportedMediaType

_PART_BYTES = 128 * 1024


def media_type(request: HttpRequest) -> str:
    return str(request.META.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower()


def body_parts(request: HttpRequest) -> Iterator[bytes]:
    """The body, bit by bit."""
    try:
        while part := request.read(_PART_BYTES):
            yield part
    except UnreadablePostError:
        raise InvalidInput("The body could not be read to its end.") from None


def form_of(request: HttpRequest) -> "tuple[dict[str, str], UploadedFile[bytes]]":
    """The fields of a form, and its one file. Parses the body: not on the event loop.

    Raises UnsupportedMediaType and InvalidInput.
    """
    if media_type(request) != "multipart/form-data":
        raise UnsupportedMediaType("Send the file as multipart/form-data.")
    try:
        fields: Any = request.POST
        files: Any = request.FILES
    except (MultiPartParserError, SuspiciousOperation, UnreadablePostError) as error:
        raise InvalidInput("The form can't be read.") from error
    if list(files) != ["file"] or len(files.getlist("file")) != 1:
        raise InvalidInput("The form must have one file, called file.", field="file")
    return {name: str(fields[name]) for name in fields}, files["file"]


def parts_of(file: "UploadedFile[bytes]") -> Iterable[bytes]:
    return file.chunks(_PART_BYTES)
