"""Connections to the real HTTP server: silent, slow and greedy peers beside honest ones."""

import asyncio
import contextlib
import json
import resource
import socket
from collections.abc import AsyncIterator

import pytest

from tests import idle_time
from tests.fakes import job_id
from tests.harness import Harness, done
from tests.reconcile.test_reconcile import body
from worker.jobs.job import JobStatus
from worker.runtime.connections import LIMITS
from worker.runtime.loops import Heartbeats
from worker.web import Web, listen, server_for, signature

SECRET = "a-secret-of-the-tests"
SILENT = 1500


class Site(Harness):
    """The real server on a free port of 127.0.0.1, around a reconciler with fakes."""

    port = 0

    def __init__(self) -> None:
        super().__init__()
        self.peers: list[Peer] = []

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Site"]:
        beats = Heartbeats(clock=self.clock)
        web = Web(
            reconciler=self.reconciler, readiness=self.readiness, beats=beats, secrets=(SECRET,)
        )
        self.server = server_for(web)
        with listen("127.0.0.1", 0) as sock:
            self.port = sock.getsockname()[1]
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.server.serve(sockets=[sock]))
                while not self.server.started:
                    await asyncio.sleep(0.1)
                yield self
                for peer in self.peers:
                    peer.writer.transport.abort()
                self.server.should_exit = True

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    async def connect(self, source: str = "127.0.0.1") -> "Peer":
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(source, 0)
        )
        self.peers.append(Peer(reader, writer))
        return self.peers[-1]

    async def ask(self, path: str, source: str = "127.0.0.1") -> int:
        """The status of one GET on a connection of its own."""
        peer = await self.connect(source)
        return await peer.ask(f"GET {path} HTTP/1.1\r\nHost: w\r\n\r\n".encode())

    async def hook(self, source: str = "127.0.0.1") -> int:
        """The status of a genuine webhook."""
        data = json.dumps(body()).encode()
        path = f"/webhooks/runpod/{job_id()}/1/{signature(SECRET, job_id(), 1)}"
        head = f"POST {path} HTTP/1.1\r\nHost: w\r\nContent-Length: {len(data)}\r\n\r\n"
        peer = await self.connect(source)
        return await peer.ask(head.encode() + data)


class Peer:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, request: bytes) -> int:
        self.writer.write(request)
        status = await self.status()
        self.writer.close()
        return status

    async def status(self) -> int:
        """The status of the next answer; 0 if the server ends the connection."""
        try:
            line = await self.reader.readline()
        except ConnectionResetError:
            return 0
        return int(line.split()[1]) if line else 0

    async def ended_after(self) -> float:
        """Seconds from now until the server ends the connection."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        with contextlib.suppress(ConnectionResetError):
            while await self.reader.read(65536):
                pass
        return loop.time() - began

    async def trickle(self, data: bytes, every: float) -> float:
        """Send byte after byte; return the seconds until the server ends the connection."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in data:
            self.writer.write(bytes([number]))
            try:
                async with asyncio.timeout(every):
                    if not await self.reader.read(65536):
                        break
            except TimeoutError:
                continue
            except ConnectionResetError:
                break
        return loop.time() - began


@contextlib.contextmanager
def many_files():
    """Room for the sockets of both sides in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * SILENT:
        pytest.skip(f"this machine permits {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * SILENT + 500), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _among_silent_ones(*sources: str) -> None:
    """Answer everything, from the address of the silent ones and from another one."""
    site = Site()
    await site.submitted()
    site.runpod.runs["run-1"] = done()
    async with site.serving():
        for number in range(SILENT):
            await site.connect(sources[number % len(sources)])
        assert site.connections <= LIMITS.most
        for source in (sources[0], "127.0.0.99"):
            assert await site.ask("/livez", source) == 200
            assert await site.ask("/readyz", source) == 200
            assert await site.ask("/metrics", source) == 200
            assert await site.hook(source) == 200
    assert site.store.job().status is JobStatus.COMPLETED


@pytest.mark.parametrize(
    "sources",
    [("127.0.0.1",), tuple(f"127.0.1.{number}" for number in range(1, 51))],
    ids=["of one address, as behind a proxy", "of fifty addresses"],
)
def test_1500_silent_connections_change_nothing(sources: tuple[str, ...]) -> None:
    with many_files():
        idle_time.run(_among_silent_ones(*sources))


def test_a_connection_is_taken_from_the_address_that_has_most() -> None:
    """A quiet peer keeps its connection while another address opens hundreds."""

    async def work() -> None:
        async with Site().serving() as site:
            quiet = await site.connect("127.0.0.2")
            greedy = [await site.connect("127.0.0.3") for _ in range(LIMITS.most + 50)]
            assert await quiet.ask(b"GET /livez HTTP/1.1\r\nHost: w\r\n\r\n") == 200
            assert await greedy[0].ended_after() == 0

    idle_time.run(work())


def test_a_connection_whose_request_is_being_answered_is_never_taken() -> None:
    async def work() -> None:
        site = Site()
        await site.submitted()
        site.runpod.runs["run-1"] = done()
        reached, gate = asyncio.Event(), asyncio.Event()
        webhook = site.reconciler.webhook

        async def slow(*arguments):
            reached.set()
            await gate.wait()
            return await webhook(*arguments)

        site.reconciler.webhook = slow  # type: ignore[method-assign] # a webhook that takes long
        async with site.serving(), asyncio.TaskGroup() as tasks:
            hook = tasks.create_task(site.hook())
            await reached.wait()
            for _ in range(LIMITS.most + 50):
                await site.connect()
            gate.set()
            assert await hook == 200

    idle_time.run(work())


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /livez HTTP/1.1\r\nHost: w\r\nX: " + b"y" * 9000,
        b"POST /webhooks HTTP/1.1\r\nHost: w\r\nContent-Length: 9000\r\n\r\n" + b"y" * 9000,
    ],
    ids=["nothing", "a head without end", "a body for nobody"],
)
def test_a_request_that_does_not_arrive_in_time_ends_the_connection(sent: bytes) -> None:
    """Also one that is answered before its body has arrived, and sends byte after byte."""

    async def work() -> float:
        async with Site().serving() as site:
            peer = await site.connect()
            if not sent:
                return await peer.ended_after()
            return await peer.trickle(sent, every=1.0)

    assert LIMITS.request_seconds - 1 <= idle_time.run(work()) <= 2 * LIMITS.request_seconds + 1


def test_a_webhook_whose_body_stops_is_still_a_hint() -> None:
    async def work() -> None:
        site = Site()
        await site.submitted()
        site.runpod.runs["run-1"] = done()
        async with site.serving():
            path = f"/webhooks/runpod/{job_id()}/1/{signature(SECRET, job_id(), 1)}"
            peer = await site.connect()
            peer.writer.write(
                f"POST {path} HTTP/1.1\r\nHost: w\r\nContent-Length: 900\r\n\r\n{{".encode()
            )
            assert await peer.ended_after() == pytest.approx(LIMITS.request_seconds, abs=1)
        assert site.store.job().status is JobStatus.COMPLETED

    idle_time.run(work())


def test_a_peer_that_never_reads_its_answers_is_ended() -> None:
    async def work() -> None:
        async with Site().serving() as site:
            peer = await site.connect()
            transport = peer.writer.transport
            transport.pause_reading()  # type: ignore[attr-defined] # a transport of a socket
            for _ in range(3000):
                peer.writer.write(b"GET /metrics HTTP/1.1\r\nHost: w\r\n\r\n")
            await asyncio.sleep(LIMITS.request_seconds + LIMITS.answer_seconds + 1)
            assert site.connections == 0

    idle_time.run(work())


def test_a_connection_is_used_again_within_its_time() -> None:
    async def work() -> None:
        async with Site().serving() as site:
            peer = await site.connect()
            for _ in range(4):
                peer.writer.write(b"GET /livez HTTP/1.1\r\nHost: w\r\n\r\n")
                assert await peer.status() == 200
                while await peer.reader.readline() not in (b"\r\n", b""):
                    pass
                await peer.reader.readexactly(len(b'{"status":"ok","stuck":[]}'))
                await asyncio.sleep(LIMITS.request_seconds - 1)

    idle_time.run(work())


def test_a_connection_cannot_be_upgraded_out_of_its_limits() -> None:
    async def work() -> None:
        async with Site().serving() as site:
            peer = await site.connect()
            upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            assert (
                await peer.ask(b"GET /livez HTTP/1.1\r\nHost: w\r\n" + upgrade + key + b"\r\n")
                == 200
            )

    idle_time.run(work())


def test_a_head_beyond_its_bytes_is_refused() -> None:
    async def work() -> int:
        async with Site().serving() as site:
            peer = await site.connect()
            head = b"GET /livez HTTP/1.1\r\nHost: w\r\nX: " + b"y" * (LIMITS.head_bytes + 1)
            return await peer.ask(head)

    assert idle_time.run(work()) == 400


def test_the_server_waits_for_no_more_connections_than_its_backlog() -> None:
    """Accepting thousands at once would take the daemon's file descriptors."""
    beats = Heartbeats()
    web = Web(reconciler=Site().reconciler, readiness=Site().readiness, beats=beats, secrets=())
    config = server_for(web).config
    assert (config.backlog, config.ws) == (LIMITS.backlog, "none")
    assert LIMITS.most + LIMITS.backlog < 1024 // 2
    assert LIMITS.backlog <= socket.SOMAXCONN
