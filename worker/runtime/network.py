"""Says in a clause why a connection failed: DNS, TLS, refused, no route, time limit, broken off."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator

import httpx

from worker.jobs.text import one_line

_DNS_AWAY = (socket.EAI_AGAIN,)
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# Asked in this order: httpx's own classes only where the cause below them says nothing.
_KINDS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (httpx.ConnectTimeout, "no connection within the time limit"),
    (httpx.PoolTimeout, "all connections of this process are in use"),
    ((httpx.TimeoutException, TimeoutError), "no answer within the time limit"),
    (httpx.ProxyError, "the proxy refuses"),
    ((httpx.UnsupportedProtocol, httpx.InvalidURL), "its URL is invalid"),
    (httpx.ConnectError, "no connection is possible"),
    (
        (httpx.NetworkError, httpx.RemoteProtocolError, ConnectionError, EOFError),
        "the connection broke off",
    ),
)


def why(error: BaseException) -> str:
    """Return the cause of a failed request as a clause without a full stop, never with a URL."""
    causes = list(_chain(error))
    for cause in causes:
        if found := _of_system(cause):
            return found
    for cause in causes:
        for kinds, text in _KINDS:
            if isinstance(cause, kinds):
                return text
    return type(error).__name__


def _of_system(error: BaseException) -> str | None:
    """Return what the operating system or the TLS library says, None for other errors."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = one_line(getattr(error, "verify_message", "") or "", limit=100)
        return f"its TLS certificate is not valid{f' ({reason})' if reason else ''}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the connection broke off within TLS"
    if isinstance(error, ssl.SSLError):
        reason = one_line(
            (getattr(error, "reason", None) or "").replace("_", " ").lower(), limit=100
        )
        return f"TLS failed{f' ({reason})' if reason else ''}"
    if isinstance(error, socket.gaierror):
        if error.errno in _DNS_AWAY:
            return "this machine's DNS does not answer"
        return "its name cannot be resolved (DNS)"
    if isinstance(error, ConnectionRefusedError):
        return "the connection is refused: nothing listens there"
    if isinstance(error, OSError) and error.errno in _NO_ROUTE:
        return "there is no network route to it"
    if isinstance(error, OSError) and error.errno in _OURS:
        return "this machine has no sockets or memory left"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, also those in groups, each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            waiting.extend(current.exceptions)
        # httpcore hides its context (`from None`), which alone names what happened.
        if (cause := current.__cause__ or current.__context__) is not None:
            waiting.append(cause)
