"""How API keys look and how they are hashed."""

import hashlib
import re
import secrets
import string

PREFIX_LENGTH = 8
SECRET_LENGTH = 40
LOOKUP_LENGTH = 16
PRESET = "preset"
_ALPHABET = string.ascii_letters + string.digits
_OURS = re.compile(r"lgpu_([A-Za-z0-9]{8,16})_[A-Za-z0-9]{32,}")


def new_key() -> str:
    """`lgpu_<prefix>_<secret>`: 8 and 40 letters and digits; the secret has 238 bits."""
    return f"lgpu_{_random(PREFIX_LENGTH)}_{_random(SECRET_LENGTH)}"


def prefix_of(key: str) -> str:
    """The part of a key that may be shown; a key without a long secret beside its prefix shows nothing of itself."""
    match = _OURS.fullmatch(key)
    return match[1] if match else PRESET


def digest_of(key: str) -> str:
    """SHA-256 in hex. A fast hash is right here: keys are random, unlike passwords."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def lookup_of(digest: str) -> str:
    """The part of the digest that the table is searched by; the rest is compared in constant time."""
    return digest[:LOOKUP_LENGTH]


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
