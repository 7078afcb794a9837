"""Whose address a request comes from, seen through the proxies that are trusted and no others."""

import ipaddress
from functools import cache

from django.conf import settings
from django.http import HttpRequest

UNKNOWN = "unknown"
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address(request: HttpRequest) -> str:
    """The peer's address or, behind trusted proxies, the nearest address that they vouch for."""
    address = _parse(request.META.get("REMOTE_ADDR", ""))
    forwarded = request.headers.get("X-Forwarded-For", "") if settings.TRUSTED_PROXIES else ""
    for hop in reversed(forwarded.split(",")) if forwarded else ():
        if address is None or not _is_trusted(address):
            break
        claimed = _parse(hop.strip())
        if claimed is None:
            break
        address = claimed
    return str(address) if address else UNKNOWN


def comes_from_trusted_proxy(request: HttpRequest) -> bool:
    """Whether the peer is a proxy whose word counts."""
    address = _parse(request.META.get("REMOTE_ADDR", ""))
    return address is not None and _is_trusted(address)


def counted_address(request: HttpRequest) -> str:
    """What limits count: the address, or an IPv6 client's /64 network, of which one household has 2**64 addresses."""
    text = client_address(request)
    address = _parse(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return text


def _parse(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_trusted(address: _Address) -> bool:
    return any(address in network for network in _trusted_networks(tuple(settings.TRUSTED_PROXIES)))


@cache
def _trusted_networks(texts: tuple[str, ...]) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
