"""DNS, TLS, refused and timeout are told apart, wherever a request fails."""

import asyncio
import socket
import ssl
from collections.abc import Callable

import httpx
import pytest

from tests.commands.backend import unused_url
from worker.jobs.errors import RunPodUnavailable, StoreUnavailable
from worker.runpod.api import RunPodApi
from worker.runtime.network import why
from worker.supabase.store import SupabaseStore, connect


async def failure_of(url: str) -> BaseException:
    """Return the error of a GET."""
    async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
        with pytest.raises(httpx.HTTPError) as raised:
            await http.get(url)
    return raised.value


def unresolved(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let each name fail to resolve with this number."""

    def fails(*_arguments: object, **_more: object) -> object:
        raise socket.gaierror(number, "as the resolver says")

    monkeypatch.setattr(socket, "getaddrinfo", fails)


async def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    unresolved(monkeypatch, socket.EAI_NONAME)
    assert why(await failure_of("http://a.example")) == "its name cannot be resolved (DNS)"


async def test_a_resolver_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    unresolved(monkeypatch, socket.EAI_AGAIN)
    assert why(await failure_of("http://a.example")) == "this machine's DNS does not answer"


async def test_a_refused_connection() -> None:
    assert why(await failure_of(unused_url())) == "the connection is refused: nothing listens there"


async def served(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object], scheme: str
) -> BaseException:
    """Return the error of a GET to a server that behaves so."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await failure_of(f"{scheme}://127.0.0.1:{port}")


async def test_a_server_without_tls() -> None:
    error = await served(lambda _r, writer: writer.write(b"HTTP/1.1 400 Bad\r\n\r\n"), "https")
    assert why(error).startswith("TLS failed")


async def test_a_connection_that_breaks_off() -> None:
    assert why(await served(lambda _r, _w: None, "http")) == "the connection broke off"


def test_a_certificate_names_its_fault() -> None:
    error = ssl.SSLCertVerificationError(1, "verify failed")
    error.verify_message = "certificate has expired"
    outer = httpx.ConnectError("x")
    outer.__cause__ = error
    assert why(outer) == "its TLS certificate is not valid (certificate has expired)"


@pytest.mark.parametrize(
    ("error", "clause"),
    [
        (httpx.ConnectTimeout("t"), "no connection within the time limit"),
        (httpx.ReadTimeout("t"), "no answer within the time limit"),
        (TimeoutError(), "no answer within the time limit"),
        (httpx.PoolTimeout("t"), "all connections of this process are in use"),
        (OSError(101, "unreachable"), "there is no network route to it"),
        (OSError(24, "too many"), "this machine has no sockets or memory left"),
        (ExceptionGroup("all", [ConnectionRefusedError()]), "the connection is refused: nothing"),
        (httpx.UnsupportedProtocol("ftp"), "its URL is invalid"),
        (RuntimeError("secret"), "RuntimeError"),
    ],
)
def test_each_kind_has_its_clause_without_the_errors_own_words(
    error: BaseException, clause: str
) -> None:
    assert why(error).startswith(clause)


async def test_runpod_and_the_table_say_it_too() -> None:
    async with RunPodApi(endpoint_url=f"{unused_url()}/v2/x", api_key="k", retry_pause=0) as api:
        with pytest.raises(RunPodUnavailable, match="the connection is refused"):
            await api.health()
    async with httpx.AsyncClient(trust_env=False) as http:
        store = await _store(http, unused_url())
        with pytest.raises(StoreUnavailable, match="the connection is refused"):
            await store.count()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (503, {}, "Supabase answered HTTP 503: no reason given."),
        (502, {"error": "bad gateway\x1b[31m"}, "Supabase answered HTTP 502: bad gateway."),
        (500, {"msg": "no\nroom"}, "Supabase answered HTTP 500: no room."),
    ],
)
async def test_an_error_without_a_reason_keeps_its_status(
    status: int, body: dict[str, str], says: str
) -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(status, json=body))
    async with httpx.AsyncClient(transport=transport) as http:
        store = await _store(http, "https://p.supabase.co")
        with pytest.raises(StoreUnavailable) as raised:
            await store.count()
    assert raised.value.message == says


async def _store(http: httpx.AsyncClient, url: str) -> SupabaseStore:
    client = await connect(url, "sb_secret_x", http)
    return SupabaseStore(client, owner="o", lease_seconds=60, poll_seconds=30, endpoint_id="e")


def test_a_bare_tls_error_has_its_clause() -> None:
    """As httpx lets it through after the handshake: without the attributes of OpenSSL's own."""
    assert why(ssl.SSLError(1, "bad record mac")) == "TLS failed"
    assert why(ssl.SSLCertVerificationError(1, "x")) == "its TLS certificate is not valid"
