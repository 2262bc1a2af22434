"""Where webhooks may be sent: never to an address inside, unless a setting allows it."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from modelfleet.core.errors import InvalidInput

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Target:
    """A checked address: the connection goes to one of `addresses`, whatever DNS says later."""

    scheme: str
    host: str
    port: int
    path: str
    addresses: tuple[str, ...]


def resolve(url: str, *, private: bool) -> Target:
    """Raises `InvalidInput`. private: plain HTTP and private addresses are fine, too."""
    if not url.strip():
        raise InvalidInput(f"Webhook URL cannot be empty or just whitespace: {url!r}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"Invalid webhook URL {url[:200]!r}: {error}") from error
    schemes = ("https", "http") if private else ("https",)
    if parts.scheme not in schemes:
        raise InvalidInput(
            f"Invalid webhook URL scheme: {parts.scheme!r}. Allowed schemes are: "
            f"{', '.join(schemes)}."
        )
    if not parts.hostname or not url.isprintable():
        raise InvalidInput(f"Webhook URL must include a hostname: {url[:200]!r}")
    if parts.username is not None:
        raise InvalidInput("A webhook URL can't hold a user and a password.")
    port = port or (443 if parts.scheme == "https" else 80)
    addresses = _addresses(parts.hostname, port)
    if not private:
        for address in addresses:
            if not _public(ipaddress.ip_address(address)):
                raise InvalidInput(
                    f"Webhook URL must not resolve to a non-public address; {parts.hostname!r} "
                    f"is {address}."
                )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, parts.hostname, port, path, addresses)


def _addresses(host: str, port: int) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InvalidInput(f"Cannot resolve Webhook URL hostname {host!r}: {error}") from error
    return tuple(dict.fromkeys(re.sub(r"%.*", "", str(one[4][0])) for one in found))


def _public(address: Address) -> bool:
    """Also behind the transition formats of IPv6 that hold an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global
    return address.is_global
