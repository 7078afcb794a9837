"""Typed, strict readers of environment variables; a bad value stops the start and says how to mend it."""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from common.errors import InvalidInput
from models_mgmt.memory_limit import parse_memory_limit

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def read_str(name: str, default: str, *, choices: tuple[str, ...] = ()) -> str:
    """The variable's text; an empty one counts as unset. Raises ImproperlyConfigured for one not among `choices`."""
    value = os.environ.get(name, "").strip() or default
    if choices and value not in choices:
        raise ImproperlyConfigured(f"{name} is {value!r}; set it to one of: {', '.join(repr(c) for c in choices)}.")
    return value


def read_bool(name: str, *, default: bool) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if not value:
        return default
    if value in _TRUE | _FALSE:
        return value in _TRUE
    raise ImproperlyConfigured(f"{name} is {value!r}; set it to 1 or 0.")


def read_int(name: str, default: int, *, minimum: int, maximum: int = 2**53) -> int:
    return int(_read_number(name, default, int, minimum, maximum))


def read_float(name: str, default: float, *, minimum: float, maximum: float = 1e12) -> float:
    return _read_number(name, default, float, minimum, maximum)


def read_list(name: str, default: tuple[str, ...] = ()) -> list[str]:
    """A comma-separated list without its blanks."""
    value = os.environ.get(name, "")
    return [item.strip() for item in value.split(",") if item.strip()] or list(default)


def read_url(name: str, default: str, *, schemes: tuple[str, ...]) -> str:
    """A URL with one of the schemes. The complaint does not repeat it: it may hold a password."""
    value = read_str(name, default)
    if urlsplit(value).scheme not in schemes:
        raise ImproperlyConfigured(
            f"{name} is no URL that can be used; it must begin with {' or '.join(schemes)} and ://."
        )
    return value


def read_name(name: str, default: str) -> str:
    """Letters, digits, dots, dashes and underscores, for what goes into other names."""
    value = read_str(name, default)
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", value):
        raise ImproperlyConfigured(f"{name} is {value!r}; set it to letters, digits, dots, dashes and underscores.")
    return value


def read_memory_limit(name: str) -> str:
    """`80%` of a device's memory or `12GB`; empty for no limit."""
    value = read_str(name, "")
    try:
        if value:
            parse_memory_limit(value)
    except InvalidInput:
        raise ImproperlyConfigured(
            f"{name} is {value!r}; set it to a share such as '80%' or a size such as '12GB'."
        ) from None
    return value


def read_byte_size(name: str) -> int:
    """`2GB`, `512MB`; 0 when unset."""
    value = read_str(name, "")
    try:
        size = parse_memory_limit(value).size if value else 0
    except InvalidInput:
        size = 0
    if value and not size:
        raise ImproperlyConfigured(f"{name} is {value!r}; set it to a size such as '2GB'.")
    return size


def read_path(name: str, default: Path) -> Path:
    return Path(read_str(name, str(default))).expanduser().resolve()


def _read_number(name: str, default: float, kind: type[int] | type[float], minimum: float, maximum: float) -> float:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    wanted = f"{'a whole number' if kind is int else 'a number'} from {minimum:g} to {maximum:g}"
    try:
        value = kind(text)
    except ValueError:
        raise ImproperlyConfigured(f"{name} is {text!r}; set it to {wanted}.") from None
    if not minimum <= value <= maximum:
        raise ImproperlyConfigured(f"{name} is {text}; set it to {wanted}.")
    return value


def read_networks(name: str) -> list[str]:
    """A comma-separated list of addresses and networks, such as `10.0.0.0/8`."""
    networks = read_list(name)
    for text in networks:
        try:
            ip_network(text, strict=False)
        except ValueError:
            raise ImproperlyConfigured(
                f"{name} contains {text!r}; set it to addresses or networks such as 10.0.0.0/8, separated by commas."
            ) from None
    return networks


def read_origins(name: str) -> list[str]:
    """A comma-separated list of origins such as `https://app.example.com:8443`, or `*` for all."""
    origins = [text.lower() for text in read_list(name)]
    for text in origins:
        if text != "*" and not re.fullmatch(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?", text):
            raise ImproperlyConfigured(
                f"{name} contains {text!r}; write origins such as https://app.example.com, or * for all."
            )
    return origins


def read_limits(name: str, defaults: Mapping[str, tuple[int, int, int]]) -> dict[str, tuple[int, int, int]]:
    """The defaults with the changes that a text such as `infer=2000/200,models=50/5/60` asks for."""
    limits = dict(defaults)
    for item in read_list(name):
        match = re.fullmatch(r"(\w+)=(\d{1,12})/(\d{1,12})(?:/(\d{1,8}))?", item)
        if match is None or match[1] not in defaults or match[4] == "0":
            raise ImproperlyConfigured(
                f"{name} contains {item!r}; write group=authenticated/unauthenticated, such as infer=2000/200, or with "
                f"a window in seconds, such as infer=50/5/60, and one of the groups {', '.join(defaults)}."
            )
        limits[match[1]] = (int(match[2]), int(match[3]), int(match[4] or defaults[match[1]][2]))
    return limits


def read_tiers(name: str, defaults: Mapping[str, tuple[float, float, bool]]) -> dict[str, tuple[float, float, bool]]:
    """The defaults with the tiers that a text such as `premium=20/10/first,partner=3/2` changes or adds."""
    tiers = dict(defaults)
    for item in read_list(name):
        match = re.fullmatch(r"([a-z][a-z0-9_]{0,31})=(\d{1,6}(?:\.\d{1,3})?)/(\d{1,6}(?:\.\d{1,3})?)(/first)?", item)
        if match is None or match[1] == "standard":
            raise ImproperlyConfigured(
                f"{name} contains {item!r}; write tier=factor for inference/factor for the rest, such as "
                "premium=10/5/first, where /first lets its requests go first; the tier standard is always 1/1."
            )
        tiers[match[1]] = (float(match[2]), float(match[3]), match[4] is not None)
    return tiers
