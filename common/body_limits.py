"""How large a request's body may be. Addresses that take files take more, and write it to disk as it comes."""

from django.conf import settings

UPLOAD_PATHS = frozenset({"/api/v1/jobs", "/v1/files"})
# What a form adds around the file.
_FORM_BYTES = 64 * 1024


def body_limit(path: str) -> int:
    """In bytes, for a path without its query."""
    if path.rstrip("/") in UPLOAD_PATHS:
        return max(settings.MAX_BODY_BYTES, settings.MAX_UPLOAD_BYTES + _FORM_BYTES)
    return settings.MAX_BODY_BYTES
