"""The ids of files, jobs and deliveries: what it is, and 120 random bits."""

import secrets

ID_BYTES = 15


def new_id(kind: str) -> str:
    """Such as `job_…`; `kind` brings its own last character."""
    return f"{kind}{secrets.token_hex(ID_BYTES)}"
