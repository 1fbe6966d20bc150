"""A TLS stream that breaks after the handshake comes out of httpx as a bare ssl.SSLError."""

import io
import ssl

import httpx
import pytest

from worker.jobs.errors import InputUnavailable, StoreUnavailable
from worker.media.fetch import Deadline, Fetcher
from worker.media.storage import ObjectName, StorageApi
from worker.supabase.store import SupabaseStore, connect

URL = "https://p.supabase.example"
OBJECT = ObjectName(bucket="inputs", path="a")


def breaks(_request: httpx.Request) -> httpx.Response:
    raise ssl.SSLError(1, "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] bad record mac")


@pytest.fixture
def http() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(breaks))


async def test_the_table_counts_as_away(http: httpx.AsyncClient) -> None:
    """Anything else would end the process, with POSTs under way."""
    store = SupabaseStore(
        await connect(URL, "sb_secret_0123456789abcdef", http),
        owner="00000000-0000-4000-8000-000000000001",
        lease_seconds=60,
        poll_seconds=30,
        endpoint_id="abc",
    )
    with pytest.raises(StoreUnavailable):
        await store.stranded(1)


async def test_storage_counts_as_away(http: httpx.AsyncClient) -> None:
    storage = StorageApi(url=URL, key="key", client=http)
    with pytest.raises(StoreUnavailable):
        await storage.sign(OBJECT, seconds=60, kind="image")
    with pytest.raises(InputUnavailable):
        await storage.download(
            OBJECT, kind="image", limit=9, into=io.BytesIO(), deadline=Deadline.after(60)
        )


async def test_an_inputs_host_counts_as_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handle(_transport: object, request: httpx.Request) -> httpx.Response:
        return breaks(request)

    async def resolver(_host: str, _port: int) -> list[str]:
        return ["1.1.1.1"]

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    with pytest.raises(InputUnavailable):
        await Fetcher(resolver=resolver).fetch(
            "https://a.example/i.jpg",
            kind="image",
            limit=9,
            into=io.BytesIO(),
            deadline=Deadline.after(60),
        )
