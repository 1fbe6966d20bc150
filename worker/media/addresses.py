"""Decides which URLs may be fetched: those of public https hosts, and listed exceptions."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

import httpx

from worker.jobs.errors import InputUnavailable, JobFailed
from worker.media.first_look import Kind
from worker.runtime.machine import machine_trouble

Resolver = Callable[[str, int], Awaitable[list[str]]]
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LONGEST_URL = 4096
_NO_SUCH_HOST = frozenset({socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY})
_HOST = re.compile(r"[a-z0-9_.\-]{1,253}|[0-9a-f:.]{2,45}")
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")
# Ranges that Python 3.11 calls global although no public host is in them, and Azure's metadata
# service, which has a public address.
_CLOSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",
        "192.88.99.0/24",
        "100.64.0.0/10",
        "192.0.0.0/24",
        "2001::/23",
        "2001:db8::/32",
        "3fff::/20",
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_V4_COMPATIBLE = ipaddress.ip_network("::/96")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One host to connect to; `private_allowed` if the operator listed its host and port."""

    url: httpx.URL
    host: str
    port: int
    private_allowed: bool

    @property
    def shown(self) -> str:
        """The URL for messages, without its query, user name and folders."""
        return show(str(self.url))


def show(url: str) -> str:
    """Return a URL for messages: scheme, host and file name, without anything secret."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        return "the address"
    name = parsed.path.rsplit("/", 1)[-1][:80]
    between = "/…/" if parsed.path.count("/") > 1 else "/"
    port = f":{parsed.port}" if parsed.port else ""
    return f"{parsed.scheme}://{parsed.host[:253]}{port}{between}{name}"


def parse_target(url: str, *, kind: Kind, allowed: Collection[str]) -> Target:
    """Return the target of a URL.

    Raise JobFailed unless it is plain https, or its host and port are in `allowed`.
    """
    if len(url) > _LONGEST_URL:
        raise JobFailed(
            "input_forbidden", f"The {kind} address has more than {_LONGEST_URL} characters."
        )
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode("ascii").rstrip(".").lower()
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise JobFailed(f"{kind}_unreachable", f"The {kind} address is not a valid URL.") from error
    if parsed.scheme not in ("http", "https"):
        raise JobFailed("input_forbidden", f"The {kind} address must begin with https://.")
    if parsed.userinfo:
        raise JobFailed(
            "input_forbidden", f"The {kind} address must not contain a user or password."
        )
    if not _HOST.fullmatch(host):
        raise JobFailed(f"{kind}_unreachable", f"The {kind} address has no valid host.")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    listed = f"{host}:{port}" in {entry.strip().lower() for entry in allowed}
    target = Target(url=parsed, host=host, port=port, private_allowed=listed)
    if not listed:
        _refuse_unlisted(target, kind)
    return target


def _refuse_unlisted(target: Target, kind: Kind) -> None:
    if target.url.scheme != "https":
        raise JobFailed("input_forbidden", f"The {kind} address must begin with https://.")
    if target.port != 443 and target.port < 1024:
        raise JobFailed(
            "input_forbidden",
            f"The {kind} address uses port {target.port}, which is not allowed.",
        )
    # "2130706433", "0x7f.1" and "0177.0.0.1" are 127.0.0.1 to the resolver but not to a reader.
    last = target.host.rsplit(".", 1)[-1]
    if re.fullmatch(r"\d+|0x[0-9a-f]*", last) and not _is_plain_v4(target.host):
        raise JobFailed(
            "input_forbidden",
            f"The host of the {kind} address must be a name, or an IP address like 1.2.3.4.",
        )


def _is_plain_v4(host: str) -> bool:
    try:
        return str(ipaddress.IPv4Address(host)) == host
    except ValueError:
        return False


def is_public(text: str) -> bool:
    """Return whether an IP address is public; so must be an IPv4 address inside an IPv6 one."""
    try:
        address: IPAddress = ipaddress.ip_address(text)
    except ValueError:
        return False
    return _is_public(address)


def _is_public(address: IPAddress) -> bool:
    if any(address in network for network in _CLOSED if network.version == address.version):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            return False
        inner = _embedded(address)
        if inner is not None:
            return _is_public(inner)
        if address not in _PUBLIC_V6:
            return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
    )


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64 or address in _V4_COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


async def resolve(host: str, port: int) -> list[str]:
    """Return a host's IP addresses, IPv4 first: not every machine can connect by IPv6."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ordered = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
    return list(dict.fromkeys(str(entry[4][0]) for entry in ordered))


async def checked_addresses(target: Target, resolver: Resolver, *, kind: Kind) -> list[str]:
    """Return the IP addresses to connect to.

    Raise JobFailed if even one of them is not allowed or there are none, InputUnavailable if the
    lookup may succeed later, and OSError or MemoryError if this machine is short of something.
    """
    try:
        addresses = await resolver(target.host, target.port)
    except socket.gaierror as error:
        if error.errno == socket.EAI_MEMORY:
            raise MemoryError from error
        if error.errno in _NO_SUCH_HOST:
            raise JobFailed(
                f"{kind}_unreachable", f"The host of {target.shown} does not exist."
            ) from error
        raise InputUnavailable(
            f"{kind}_unreachable", f"The host of {target.shown} could not be looked up now."
        ) from error
    except (OSError, UnicodeError) as error:
        if machine_trouble(error) is not None:
            raise
        raise JobFailed(
            f"{kind}_unreachable", f"The host of {target.shown} cannot be looked up."
        ) from error
    if not addresses:
        raise JobFailed(f"{kind}_unreachable", f"The host of {target.shown} has no address.")
    if not target.private_allowed and not all(is_public(address) for address in addresses):
        raise JobFailed(
            "input_forbidden",
            f"The {kind} is on a private network ({target.host}); use a public https address.",
        )
    return addresses
