"""Fetches one input from the web into a file of limited size, only from a checked IP address."""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import BinaryIO

import httpx

from worker.jobs.errors import InputUnavailable, JobFailed
from worker.jobs.retry import INPUT_SECONDS, LONGEST_INPUT_WAIT
from worker.media.addresses import (
    Resolver,
    Target,
    checked_addresses,
    parse_target,
    resolve,
    show,
)
from worker.media.first_look import Kind
from worker.runtime.machine import machine_trouble
from worker.runtime.network import why

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRY_AGAIN = frozenset({408, 425, 429})
_MOST_ADDRESSES = 3
_INFLATE_STEP = 256 * 1024


@dataclass(frozen=True, slots=True)
class Deadline:
    """When all files of a job must have arrived, by the event loop's clock, in seconds."""

    began: float
    seconds: float

    @classmethod
    def after(cls, seconds: float = INPUT_SECONDS) -> Deadline:
        """Return the deadline that begins now."""
        return cls(asyncio.get_running_loop().time(), seconds)

    @property
    def at(self) -> float:
        """The instant itself, as `asyncio.timeout_at` takes it."""
        return self.began + self.seconds

    @property
    def spent(self) -> float:
        """The seconds since it began."""
        return asyncio.get_running_loop().time() - self.began


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """How slow a host may be, and how many redirects are followed.

    The connection must be there within `connect_seconds`, the head of the answer within
    `answer_seconds` from the start of the connection. Of the body, `pace_bytes` (or the rest) must
    arrive within each `pace_seconds`.
    """

    connect_seconds: float = 10.0
    answer_seconds: float = 20.0
    pace_bytes: int = 80 * 1024
    pace_seconds: float = 10.0
    max_redirects: int = 3


DEFAULT_LIMITS = FetchLimits()


class Fetcher:
    """Fetches https URLs of public hosts, and URLs of hosts that the operator listed."""

    def __init__(
        self,
        *,
        allow_private_hosts: Collection[str] = (),
        limits: FetchLimits | None = None,
        resolver: Resolver = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = frozenset(allow_private_hosts)
        self._limits = limits or DEFAULT_LIMITS
        self._resolver = resolver
        self._tls = tls or httpx.create_ssl_context(trust_env=False)

    async def fetch(
        self, url: str, *, kind: Kind, limit: int, into: BinaryIO, deadline: Deadline
    ) -> None:
        """Write the file at `url`, which must be smaller than `limit` bytes, and rewind `into`.

        Raise JobFailed, InputUnavailable if another try may help, or OSError or MemoryError if this
        machine is short of something.
        """
        try:
            async with asyncio.timeout_at(deadline.at):
                await self._follow(url, kind=kind, limit=limit, into=into)
        except TimeoutError as error:
            raise InputUnavailable(
                f"{kind}_unreachable",
                f"The {kind} did not arrive within {deadline.seconds:.0f} s from {show(url)}.",
            ) from error
        finally:
            into.seek(0)

    async def _follow(self, url: str, *, kind: Kind, limit: int, into: BinaryIO) -> None:
        for _ in range(self._limits.max_redirects + 1):
            target = parse_target(url, kind=kind, allowed=self._allowed)
            addresses = await checked_addresses(target, self._resolver, kind=kind)
            location = await self._first_answer(target, addresses, kind, limit, into)
            if location is None:
                return
            try:
                url = str(target.url.join(location))
            except (httpx.InvalidURL, ValueError) as error:
                raise JobFailed(
                    f"{kind}_unreachable", f"{target.shown} redirects to an invalid address."
                ) from error
        raise JobFailed(
            f"{kind}_unreachable",
            f"The {kind} address leads to more than {self._limits.max_redirects} redirects, the "
            f"last one to {show(url)}; use the direct download link.",
        )

    async def _first_answer(
        self, target: Target, addresses: list[str], kind: Kind, limit: int, into: BinaryIO
    ) -> str | None:
        failure: httpx.HTTPError | ssl.SSLError | None = None
        for address in addresses[:_MOST_ADDRESSES]:
            try:
                return await self._hop(target, address, kind, limit, into)
            except TimeoutError:
                raise InputUnavailable(
                    f"{kind}_unreachable",
                    f"{target.shown} sends too slowly: the answer must begin within "
                    f"{self._limits.answer_seconds:g} s, and then bring at least "
                    f"{self._limits.pace_bytes / self._limits.pace_seconds / 1024:g} kB/s.",
                ) from None
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
            # httpx does not wrap a TLS error after the handshake.
            except (httpx.TransportError, ssl.SSLError) as error:
                failure = error
                break
        raise_machine_trouble(failure)
        if _has_cause(failure, ssl.SSLCertVerificationError):
            raise JobFailed(
                f"{kind}_unreachable", f"The certificate of {target.shown} is not valid."
            ) from failure
        raise InputUnavailable(
            f"{kind}_unreachable",
            f"The connection to {target.shown} failed: {why(failure or OSError())}.",
        ) from failure

    async def _hop(
        self, target: Target, address: str, kind: Kind, limit: int, into: BinaryIO
    ) -> str | None:
        """Send the request to one IP address; return a redirect's location, None for a file."""
        # A new client for each request: httpx pools connections by IP address, and would reuse a
        # TLS connection that was verified for another host.
        transport = httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, retries=0)
        timeout = httpx.Timeout(None, connect=self._limits.connect_seconds)
        async with httpx.AsyncClient(
            transport=transport, trust_env=False, timeout=timeout
        ) as client:
            request = client.build_request(
                "GET",
                target.url.copy_with(host=address, fragment=None),
                headers={
                    "Host": target.url.netloc.decode("ascii"),
                    "Accept": "*/*",
                    "Accept-Encoding": "identity",
                    "User-Agent": "talking-head-worker",
                },
                extensions={"sni_hostname": target.host},
            )
            async with asyncio.timeout(self._limits.answer_seconds):
                response = await client.send(request, stream=True)
            async with aclosing(response):
                if response.status_code in _REDIRECTS and "location" in response.headers:
                    return response.headers["location"]
                check_status(response, kind=kind, shown=target.shown)
                await copy_body(response, kind=kind, limit=limit, into=into, pace=self._limits)
                return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def _has_cause(error: BaseException | None, wanted: type[BaseException]) -> bool:
    return any(isinstance(cause, wanted) for cause in _causes(error))


def raise_machine_trouble(error: BaseException | None) -> None:
    """Raise the cause of a failed transfer if this machine is short of something."""
    for cause in _causes(error):
        # The number of a TLS error means something else.
        if not isinstance(cause, ssl.SSLError) and machine_trouble(cause) is not None:
            raise cause


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of a Retry-After header, at most 300; None if there are none."""
    text = response.headers.get("retry-after", "")
    return min(float(text), LONGEST_INPUT_WAIT) if text.isascii() and text.isdigit() else None


def check_status(response: httpx.Response, *, kind: Kind, shown: str) -> None:
    """Return if the host answered with the whole file.

    Else raise InputUnavailable if another try may help, and JobFailed if not.
    """
    status = response.status_code
    if status == 200:
        return
    if status >= 500 or status in _TRY_AGAIN:
        raise InputUnavailable(
            f"{kind}_unreachable",
            f"{shown} answered {status}.",
            retry_in=retry_after(response),
        )
    hint = {
        401: "it needs a login",
        403: "it is private, or the link has expired",
        404: "nothing is there",
        410: "it was removed",
    }.get(status, "a direct download link is needed")
    raise JobFailed(f"{kind}_unreachable", f"The {kind} at {shown} answered {status}: {hint}.")


async def copy_body(
    response: httpx.Response,
    *,
    kind: Kind,
    limit: int,
    into: BinaryIO,
    pace: FetchLimits = DEFAULT_LIMITS,
) -> None:
    """Write the body to a file.

    Raise JobFailed as soon as it reaches `limit` bytes, and TimeoutError if it comes too slowly.
    """
    claimed = response.headers.get("content-length", "")
    if claimed.isascii() and claimed.isdigit() and int(claimed[:18]) >= limit:
        raise _too_large(kind, limit)
    into.seek(0)
    into.truncate()
    size = in_time = 0
    clock = asyncio.get_running_loop().time
    async with asyncio.timeout(pace.pace_seconds) as window:
        async for chunk in _plain_chunks(response, kind=kind):
            size += len(chunk)
            if size >= limit:
                raise _too_large(kind, limit)
            into.write(chunk)
            if response.num_bytes_downloaded - in_time >= pace.pace_bytes:
                in_time = response.num_bytes_downloaded
                window.reschedule(clock() + pace.pace_seconds)


async def _plain_chunks(response: httpx.Response, *, kind: Kind) -> AsyncIterator[bytes]:
    """Yield the body's bytes, decompressed in small steps if the host compresses unasked."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        async for chunk in response.aiter_raw():
            yield chunk
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise JobFailed(
            f"{kind}_unreadable",
            f"The host compresses the {kind} as {encoding[:20]!r}, which is not supported.",
        )
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        async for chunk in response.aiter_raw():
            pending = chunk
            while pending and not unpack.eof:
                yield unpack.decompress(pending, _INFLATE_STEP)
                pending = unpack.unconsumed_tail
    except zlib.error as error:
        raise JobFailed(f"{kind}_unreadable", f"The compressed {kind} is damaged.") from error


def _too_large(kind: Kind, limit: int) -> JobFailed:
    return JobFailed(
        f"{kind}_too_large", f"The {kind} must be smaller than {limit / 1024 / 1024:g} MiB."
    )
