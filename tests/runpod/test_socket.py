"""RunPod's client against servers that misbehave on a real socket."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from worker.jobs.errors import RunPodUnavailable, RunRefused, SubmissionUnknown
from worker.jobs.run import RunState
from worker.runpod.api import RunPodApi

RUN = b'{"id":"run-1","status":"IN_QUEUE"}'
BODY = {"input": {"prompt": "x" * 200_000}}


def answer(body: bytes, status: str = "200 OK", *extra: bytes) -> bytes:
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join((b"HTTP/1.1 " + status.encode(), length, *extra, b"", body))


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST in place of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@dataclass
class Rogue:
    """A server whose behaviour after each whole request is a function."""

    behave: Callable[[asyncio.StreamWriter], Awaitable[None]]
    url: str = ""
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-length")
                    ),
                    0,
                )
                await reader.readexactly(length)
                self.requests.append(head.split(b" ")[1])
                await self.behave(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def rogue(behave: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[Rogue]:
    made = Rogue(behave)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v2/abc"
    try:
        yield made
    finally:
        server.close()


def api(url: str, submit_seconds: float = 20.0) -> RunPodApi:
    return RunPodApi(
        endpoint_url=url, api_key="rpa_KEY", submit_seconds=submit_seconds, retry_pause=0
    )


def saying(data: bytes, *, then: str = "keep") -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if then == "close":
            writer.close()
        elif then == "reset":
            reset(writer)

    return behave


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(saying(b"", then="reset"), id="reset after the request"),
        pytest.param(saying(b"", then="close"), id="closed after the request"),
        pytest.param(saying(b"HTTP/1.1 200 O", then="close"), id="half a head"),
        pytest.param(saying(answer(RUN)[:-5], then="close"), id="half a body"),
        pytest.param(saying(answer(RUN)[:-5], then="reset"), id="half a body, then reset"),
        pytest.param(saying(b"\x00\xff garbage\r\n\r\n", then="close"), id="garbage"),
        pytest.param(
            saying(answer(b"not gzip", "200 OK", b"Content-Encoding: gzip")), id="bad encoding"
        ),
    ],
)
async def test_whatever_goes_wrong_after_sending_leaves_the_outcome_unknown(behave):
    async with rogue(behave) as server, api(server.url) as runpod:
        with pytest.raises(SubmissionUnknown):
            await runpod.submit(BODY)
        assert server.requests == [b"/v2/abc/run"], "sent once, never again"


async def test_a_connection_that_is_reset_while_we_write_leaves_the_outcome_unknown():
    async def refuse_midway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        reset(writer)

    server = await asyncio.start_server(refuse_midway, "127.0.0.1", 0)
    async with server, api(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v2/abc") as rp:
        with pytest.raises(SubmissionUnknown):
            await rp.submit({"input": {"prompt": "x" * 9_000_000}})


async def test_a_refusal_counts_even_if_its_body_breaks_off():
    refusal = saying(answer(b'{"error":"bad"}', "400 Bad Request")[:-3], then="close")
    async with rogue(refusal) as server, api(server.url) as runpod:
        with pytest.raises(RunRefused):
            await runpod.submit(BODY)


@pytest.mark.parametrize("drip", [None, 0.05])
async def test_silence_and_an_answer_in_drops_end_at_the_time_limit(drip):
    stop = asyncio.Event()

    async def behave(writer: asyncio.StreamWriter) -> None:
        begun = False
        while not stop.is_set():
            if drip is not None:
                writer.write(b"HTTP/1.1 200 OK\r\n" if not begun else b"X-More: 1\r\n")
                begun = True
            try:
                async with asyncio.timeout(drip):
                    await stop.wait()
            except TimeoutError:
                continue

    async with rogue(behave) as server, api(server.url, submit_seconds=0.3) as runpod:
        started = asyncio.get_running_loop().time()
        with pytest.raises(SubmissionUnknown):
            await runpod.submit(BODY)
        assert asyncio.get_running_loop().time() - started < 5
        stop.set()


async def test_an_endless_answer_is_not_read_to_its_end():
    sent = 0

    async def behave(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900000000\r\n\r\n")
        while sent < 900_000_000:
            writer.write(b" " * 1_000_000)
            await writer.drain()
            sent += 1_000_000

    async with rogue(behave) as server, api(server.url) as runpod:
        with pytest.raises(SubmissionUnknown):
            await runpod.submit(BODY)
        with pytest.raises(RunPodUnavailable):
            await runpod.status("run-1")
    assert sent < 100_000_000


async def test_a_status_that_repeats_ten_megabytes_of_input_is_read():
    body = RUN[:-1] + b',"input":"' + b"x" * 10_000_000 + b'"}'
    async with rogue(saying(answer(body))) as server, api(server.url) as runpod:
        assert (await runpod.status("run-1")).state is RunState.QUEUED


async def test_nobody_listening_proves_that_nothing_was_sent():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with api(f"http://127.0.0.1:{unused.getsockname()[1]}/v2/abc") as runpod:
            with pytest.raises(RunPodUnavailable):
                await runpod.submit(BODY)


async def test_a_name_that_does_not_resolve_proves_that_nothing_was_sent():
    async with api("http://nowhere.invalid/v2/abc") as runpod:
        with pytest.raises(RunPodUnavailable):
            await runpod.submit(BODY)


async def test_a_server_without_tls_proves_that_nothing_was_sent():
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, api(f"https://127.0.0.1:{port}/v2/abc") as runpod:
        with pytest.raises(RunPodUnavailable):
            await runpod.submit(BODY)


async def test_each_submission_has_a_connection_of_its_own():
    async with rogue(saying(answer(RUN))) as server, api(server.url) as runpod:
        await runpod.submit(BODY)
        await runpod.submit(BODY)
        assert server.connections == 2


async def test_questions_share_a_connection():
    async with rogue(saying(answer(RUN))) as server, api(server.url) as runpod:
        for _ in range(3):
            await runpod.status("run-1")
        assert server.connections == 1


async def test_a_kept_connection_that_the_server_has_closed_costs_no_question():
    async def close_afterwards(writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 2:
            reset(writer)
            return
        writer.write(answer(RUN))

    async with rogue(close_afterwards) as server, api(server.url) as runpod:
        for _ in range(3):
            assert (await runpod.status("run-1")).state is RunState.QUEUED
        assert len(server.requests) == 4
