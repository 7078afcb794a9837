"""Where webhooks may go: to public addresses, and to networks that the operator has named.

A name is resolved once, every address that it has is checked, and the connection is made to one of these, so that a
name server which answers differently the next time gains nothing.
"""

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from django.conf import settings

from common.errors import InvalidInput

MAX_URL_LENGTH = 2000
_PORTS = {"http": 80, "https": 443}
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# IPv6 networks whose addresses hold one of IPv4, and how many bits follow that.
_CARRIERS = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),
    (ipaddress.IPv6Network("::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
)
# Teredo: the client's address is the last 32 bits, each of them turned round.
_TEREDO = ipaddress.IPv6Network("2001::/32")


class BlockedAddress(Exception):
    """A webhook must not, or can't, go there. Its words may be shown."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: a checked address, under the name that the URL has."""

    scheme: str
    host: str
    port: int
    address: str
    path: str

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def check_url(url: str) -> str:
    """The URL, if it is one that a webhook may have. Names are resolved when it is used.

    Raises InvalidInput.
    """
    try:
        parts, _ = _split(url)
        if (literal := _literal(parts.hostname or "")) is not None:
            _check(literal)
    except BlockedAddress as error:
        raise InvalidInput(str(error), field="webhook_url") from None
    return url


def resolve(url: str) -> Target:
    """Where a request to this URL goes now; asks name servers. Raises BlockedAddress."""
    parts, port = _split(url)
    host = parts.hostname or ""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise BlockedAddress("The host's name can't be resolved.") from None
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        _check(ipaddress.ip_address(address.partition("%")[0]))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, addresses[0], path)


def _split(url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BlockedAddress("This is no URL.") from None
    if len(url) > MAX_URL_LENGTH or not url.isascii() or not url.isprintable() or " " in url:
        raise BlockedAddress("This is no URL.")
    if parts.scheme not in _PORTS or not parts.hostname:
        raise BlockedAddress("A webhook has an address of http or https.")
    if parts.username is not None or parts.password is not None:
        raise BlockedAddress("A webhook's address holds no credentials.")
    return parts, port or _PORTS[parts.scheme]


def _literal(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _check(address: _Address) -> None:
    """Raise BlockedAddress for one that is neither public nor allowed, also where it hides in an address of IPv6."""
    if _is_allowed(address):
        return
    if (inner := _carried(address)) is not None:
        _check(inner)
    elif not address.is_global or address.is_multicast or address.is_reserved:
        raise BlockedAddress("Webhooks don't go to private addresses; the operator can allow networks.")


def _carried(address: _Address) -> ipaddress.IPv4Address | None:
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    bits = int(address)
    if address in _TEREDO:
        return ipaddress.IPv4Address(~bits & 0xFFFFFFFF)
    for network, after in _CARRIERS:
        if address in network:
            return ipaddress.IPv4Address(bits >> after & 0xFFFFFFFF)
    return None


def _is_allowed(address: _Address) -> bool:
    return any(address in ipaddress.ip_network(network, strict=False) for network in settings.WEBHOOK_NETWORKS)
