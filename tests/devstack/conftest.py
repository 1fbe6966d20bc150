"""Fixtures for the gateway's tests: one Postgres per process, a database and a stack per test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from supabase import AsyncClient, AsyncClientOptions, acreate_client
from websockets.asyncio.client import ClientConnection, connect

from devstack.postgres import Postgres
from devstack.stack import Stack
from devstack.supabase.database import prepare
from tests.devstack.realtime_wire import WireClient

SCHEMA = Path(__file__).with_name("schema")
TEMPLATE = "gateway_template"
_numbers = itertools.count(1)

NewClient = Callable[..., Awaitable[AsyncClient]]
ConnectWire = Callable[..., Awaitable[WireClient]]


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A server with a template database that holds the tests' own schema."""
    postgres = Postgres()
    postgres.start()
    try:
        prepare(postgres, TEMPLATE, SCHEMA)
        yield postgres
    finally:
        postgres.remove()


@pytest.fixture
async def gateway(server: Postgres, tmp_path: Path) -> AsyncIterator[Stack]:
    """A gateway on its own database."""
    name = f"gateway_{next(_numbers)}"
    server.create_database(name, template=TEMPLATE)
    async with Stack(
        data=tmp_path / "stack", postgres=server, database=name, migrations=None, runpod=False
    ) as stack:
        yield stack
    server.drop_database(name)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
async def client_of(gateway: Stack, http: httpx.AsyncClient) -> AsyncIterator[NewClient]:
    """Makes unmodified supabase-py clients; their sockets are closed at the end."""
    made: list[AsyncClient] = []

    async def make(key: str) -> AsyncClient:
        client = await acreate_client(
            gateway.url,
            key,
            options=AsyncClientOptions(httpx_client=http, auto_refresh_token=False),
        )
        made.append(client)
        return client

    yield make
    for client in made:
        await client.realtime.close()


@pytest.fixture
async def service(gateway: Stack, client_of: NewClient) -> AsyncClient:
    return await client_of(gateway.keys.service_role)


@pytest.fixture
async def anon(gateway: Stack, client_of: NewClient) -> AsyncClient:
    return await client_of(gateway.keys.anon)


@pytest.fixture
async def user(client_of: NewClient, gateway: Stack) -> AsyncClient:
    """A client signed in anonymously."""
    client = await client_of(gateway.keys.publishable)
    await client.auth.sign_in_anonymously()
    return client


@pytest.fixture
def sql(gateway: Stack) -> Callable[..., list[tuple[object, ...]]]:
    """Run one statement as the owner of the tables, like psql; and commit."""

    def run(statement: str, *values: object) -> list[tuple[object, ...]]:
        with psycopg.connect(gateway.database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
async def connect_wire(gateway: Stack) -> AsyncIterator[ConnectWire]:
    sockets: list[ClientConnection] = []

    async def make(key: str | None = None, version: str = "1.0.0") -> WireClient:
        key = gateway.keys.service_role if key is None else key
        address = gateway.url.replace("http", "ws")
        query = f"apikey={key}&vsn={version}"
        socket = await connect(f"{address}/realtime/v1/websocket?{query}", proxy=None)
        sockets.append(socket)
        return WireClient(socket, version)

    yield make
    for socket in sockets:
        await socket.close()


@pytest.fixture
async def wire(connect_wire: ConnectWire) -> WireClient:
    return await connect_wire()
