"""Fetching an input: how an address could reach the private network, and the limits."""

import asyncio
import errno
import gzip
import io
import socket
import ssl
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from tests import idle_time
from tests.data.media.hosts import Authority, host, redirect, reply
from worker.jobs.errors import InputUnavailable, JobFailed
from worker.media import addresses as address
from worker.media.addresses import is_public, show
from worker.media.fetch import DEFAULT_LIMITS, Deadline, Fetcher, FetchLimits, raise_machine_trouble

LIMIT = 1024 * 1024
QUICK = FetchLimits(connect_seconds=2)


async def nowhere(name: str, port: int) -> list[str]:
    raise AssertionError(f"{name} must not even be looked up")


def answering(*addresses: str) -> Callable:
    async def resolver(name: str, port: int) -> list[str]:
        return list(addresses)

    return resolver


async def fetch(
    url: str, fetcher: Fetcher, *, limit: int = LIMIT, kind="audio", seconds: float = 120
) -> bytes:
    into = io.BytesIO()
    await fetcher.fetch(url, kind=kind, limit=limit, into=into, deadline=Deadline.after(seconds))
    assert into.tell() == 0
    return into.getvalue()


def local(port: int, **options) -> Fetcher:
    return Fetcher(
        allow_private_hosts=[f"127.0.0.1:{port}"], limits=options.pop("limits", QUICK), **options
    )


async def refusal(url: str, fetcher: Fetcher, **options) -> JobFailed:
    with pytest.raises(JobFailed) as failed:
        await fetch(url, fetcher, **options)
    return failed.value


# --- addresses ----------------------------------------------------------------------------------

PRIVATE = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1",
    "100.100.100.200", "169.254.169.254", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "168.63.129.16", "192.0.2.1", "192.88.99.1",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fdaa::3", "fec0::1",
    "ff02::1", "2001:db8::1", "100::1", "3fff::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1",
    "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:4136:e378::1",
    "not an address", "", "0177.0.0.1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"]


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_that_are_not_for_everybody_are_closed(text):
    assert not is_public(text)


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_open_in_every_form(text):
    assert is_public(text)


@pytest.mark.parametrize("text", [*PRIVATE[:39], "127.0.0.1"])
async def test_a_name_that_leads_to_a_private_address_is_refused(text):
    fetcher = Fetcher(resolver=answering(text), limits=QUICK)
    failed = await refusal("https://harmless.example/a.mp3", fetcher)
    assert failed.code == "input_forbidden"


async def test_one_private_address_among_public_ones_is_enough_to_refuse():
    fetcher = Fetcher(resolver=answering("1.1.1.1", "10.0.0.1"), limits=QUICK)
    assert (await refusal("https://mixed.example/a", fetcher)).code == "input_forbidden"


FORBIDDEN = [
    "http://example.com/a.mp3",
    "ftp://example.com/a.mp3",
    "file:///etc/passwd",
    "data:audio/mpeg;base64,AAAA",
    "javascript:alert(1)",
    "gopher://example.com/",
    "storage://inputs/x",
    "https://user:password@example.com/a.mp3",
    "https://user@example.com/a.mp3",
    "https://example.com:22/a.mp3",
    "https://example.com:80/a.mp3",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://127.1/",
    "https://127.0.0.1.:443/0x",
    "https://1.2.3/",
    "https://example.com/" + "a" * 5000,
    "just words",
    "",
]


@pytest.mark.parametrize("url", FORBIDDEN)
async def test_forms_that_hide_where_they_lead_are_refused_before_any_lookup(url):
    resolver = answering("127.0.0.1") if "127.0.0.1." in url else nowhere
    failed = await refusal(url, Fetcher(resolver=resolver, limits=QUICK))
    assert failed.code == "input_forbidden"
    assert "password" not in failed.message.replace("user or password", "")


@pytest.mark.parametrize(
    "url",
    ["https://", "https:///a.mp3", "https://exa mple/", "https://[::1/", "https://0177.0.0.1/"],
)
async def test_addresses_that_are_no_urls_are_unreachable(url):
    failed = await refusal(url, Fetcher(resolver=nowhere, limits=QUICK))
    assert failed.code == "audio_unreachable"


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1/", "https://[::1]/", "https://localhost./", "https://[::ffff:7f00:1]/"],
)
async def test_literal_and_local_hosts_are_refused_by_the_real_resolver(url):
    assert (await refusal(url, Fetcher(limits=QUICK))).code == "input_forbidden"


async def test_a_listed_host_and_port_may_be_private_and_plain_http():
    async with host({"/a": reply(b"sound")}) as site:
        assert await fetch(f"http://127.0.0.1:{site.port}/a", local(site.port)) == b"sound"
        other_name = f"http://localhost:{site.port}/a"
        assert (await refusal(other_name, local(site.port))).code == "input_forbidden"


async def test_another_port_of_a_listed_host_stays_closed():
    async with host({"/a": reply(b"sound")}) as site:
        fetcher = local(site.port + 1)
        failed = await refusal(f"http://127.0.0.1:{site.port}/a", fetcher)
        assert failed.code == "input_forbidden"
        assert site.connections == 0


# --- pinning ------------------------------------------------------------------------------------
# 127.0.0.2 plays the public internet and 127.0.0.1 the private network.


@pytest.fixture
def outside(monkeypatch):
    monkeypatch.setattr(address, "is_public", lambda text: text == "127.0.0.2")
    return "127.0.0.2"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


async def test_the_connection_goes_to_the_checked_address_with_the_name_in_tls_and_host_header(
    outside, authority
):
    tls = authority.server_context("media.example")
    async with host({"/a": reply(b"sound")}, address=outside, tls=tls) as site:
        asked = []

        async def resolver(name: str, port: int) -> list[str]:
            asked.append((name, port))
            return [outside] if len(asked) == 1 else ["127.0.0.1"]

        fetcher = Fetcher(resolver=resolver, tls=authority.client_context(), limits=QUICK)
        url = f"https://Media.Example.:{site.port}/a?token=1#part"
        assert await fetch(url, fetcher) == b"sound"
        assert asked == [("media.example", site.port)]
        assert site.server_names == ["media.example"]
        assert f"media.example.:{site.port}" in site.requests[0].lower()
        assert "GET /a?token=1 HTTP/1.1" in site.requests[0]
        assert "accept-encoding: identity" in site.requests[0].lower()


async def test_a_certificate_for_another_name_is_refused(outside, authority):
    tls = authority.server_context("other.example", outside)
    async with host({"/a": reply(b"sound")}, address=outside, tls=tls) as site:
        fetcher = Fetcher(resolver=answering(outside), tls=authority.client_context(), limits=QUICK)
        failed = await refusal(f"https://media.example:{site.port}/a", fetcher)
        assert failed.code == "audio_unreachable"
        assert "certificate" in failed.message
        assert site.requests == []


async def test_a_name_that_changes_its_address_between_check_and_redirect_is_caught(
    outside, authority
):
    """DNS rebinding: the second lookup of the same name answers with a private address."""
    tls = authority.server_context("media.example")
    async with host({"/a": redirect("/b")}, address=outside, tls=tls) as site:
        answers = [[outside], ["127.0.0.1"]]

        async def resolver(name: str, port: int) -> list[str]:
            return answers.pop(0)

        fetcher = Fetcher(resolver=resolver, tls=authority.client_context(), limits=QUICK)
        failed = await refusal(f"https://media.example:{site.port}/a", fetcher)
        assert failed.code == "input_forbidden"
        assert site.connections == 1


@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.1:{port}/secret",
        "http://127.0.0.1:{port}/secret",
        "//127.0.0.1:{port}/secret",
        "https://inside.example:{port}/secret",
        "https://[::ffff:127.0.0.1]:{port}/secret",
        "file:///etc/passwd",
        "http://media.example/downgrade",
    ],
)
async def test_a_redirect_to_the_private_network_is_refused_without_a_connection(
    location, outside, authority
):
    async with host({"/secret": reply(b"secret")}) as inside:
        tls = authority.server_context("media.example")
        target = location.format(port=inside.port)
        async with host({"/a": redirect(target)}, address=outside, tls=tls) as site:

            async def resolver(name: str, port: int) -> list[str]:
                return [outside] if name == "media.example" else ["127.0.0.1"]

            fetcher = Fetcher(resolver=resolver, tls=authority.client_context(), limits=QUICK)
            failed = await refusal(f"https://media.example:{site.port}/a", fetcher)
        assert failed.code == "input_forbidden"
        assert inside.connections == 0


async def test_the_next_address_is_tried_when_the_first_does_not_answer(outside, authority):
    tls = authority.server_context("media.example")
    async with host({"/a": reply(b"sound")}, tls=tls) as site:
        fetcher = Fetcher(
            allow_private_hosts=[f"media.example:{site.port}"],
            resolver=answering("127.0.0.3", "127.0.0.1"),
            tls=authority.client_context(),
            limits=QUICK,
        )
        assert await fetch(f"https://media.example:{site.port}/a", fetcher) == b"sound"


# --- redirects, statuses, limits ----------------------------------------------------------------


async def test_three_redirects_are_followed_and_a_fourth_is_not():
    chain = {f"/{step}": redirect(f"/{step + 1}") for step in range(4)}
    async with host(chain | {"/4": reply(b"sound")}) as site:
        fetcher = local(site.port)
        assert await fetch(f"http://127.0.0.1:{site.port}/1", fetcher) == b"sound"
        failed = await refusal(f"http://127.0.0.1:{site.port}/0", fetcher)
        assert failed.code == "audio_unreachable"
        assert "redirects" in failed.message


async def test_a_redirect_loop_ends():
    async with host({"/a": redirect("/a", "308 Permanent Redirect")}) as site:
        await refusal(f"http://127.0.0.1:{site.port}/a", local(site.port))
        assert site.connections == 4


@pytest.mark.parametrize(
    "status", ["400 Bad", "401 No", "403 No", "404 No", "410 Gone", "206 Part"]
)
async def test_a_refusing_host_ends_the_job(status):
    async with host({"/a": reply(b"no", status=status)}) as site:
        failed = await refusal(
            f"http://127.0.0.1:{site.port}/a?token=SECRET", local(site.port), kind="image"
        )
        assert failed.code == "image_unreachable"
        assert status[:3] in failed.message
        assert "SECRET" not in failed.message


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad", "503 Busy", "429 Slow", "408 Late"])
async def test_a_failing_host_is_asked_again_later(status):
    answer = reply(status=status, headers={"Retry-After": "7"})
    async with host({"/a": answer}) as site:
        with pytest.raises(InputUnavailable) as failed:
            await fetch(f"http://127.0.0.1:{site.port}/a?token=SECRET", local(site.port))
        assert failed.value.code == "audio_unreachable"
        assert failed.value.retry_in == 7
        assert "SECRET" not in failed.value.message


async def silent(head: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(1000)


def dripping_head(seconds: float):
    """The attack of a host that sends its head for so long, and then asks for another try."""

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\nX: ")
        for _ in range(round(seconds / 4)):
            writer.write(b"y")
            await writer.drain()
            await asyncio.sleep(4)
        writer.write(b"\r\n\r\n")
        await writer.drain()

    return answer


def dripping(size: int, *, piece: int, every: float):
    """A host that sends a body of `size` bytes in pieces."""

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(0, size, piece):
            writer.write(bytes(piece))
            await writer.drain()
            await asyncio.sleep(every)

    return answer


async def breaking_off(head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf")
    await writer.drain()


async def nonsense(head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    await writer.drain()


async def endless_head(head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for index in range(100_000):
        if writer.is_closing():
            return
        writer.write(f"x-{index}: {'y' * 100}\r\n".encode())
        await writer.drain()


@pytest.mark.parametrize("answer", [breaking_off, nonsense, endless_head])
async def test_a_host_that_stops_or_sends_garbage_is_asked_again_later(answer):
    async with host({"/a": answer}) as site:
        with pytest.raises(InputUnavailable) as failed:
            await fetch(f"http://127.0.0.1:{site.port}/a", local(site.port))
        assert failed.value.code == "audio_unreachable"


# --- slow hosts, in a loop whose time passes only while nobody has anything to do ----------------


def cut_off(answer, *, seconds: float = 120, kind="audio") -> tuple[float, str]:
    """Return after how many seconds a host is cut off, and what is said of it."""

    async def work() -> tuple[float, str]:
        async with host({"/a": answer, "/b": redirect("/a")}) as site:
            fetcher = local(site.port, resolver=answering("127.0.0.1"), limits=DEFAULT_LIMITS)
            began = asyncio.get_running_loop().time()
            with pytest.raises(InputUnavailable) as failed:
                await fetch(f"http://127.0.0.1:{site.port}/b", fetcher, seconds=seconds, kind=kind)
            return asyncio.get_running_loop().time() - began, failed.value.message

    return idle_time.run(work())


@pytest.mark.parametrize(
    "answer", [silent, dripping_head(112)], ids=["silent", "a byte of the head every 4 s"]
)
def test_an_answer_must_have_begun_after_20_seconds(answer):
    seconds, message = cut_off(answer)
    assert seconds == pytest.approx(20, abs=1)
    assert "too slowly" in message


def test_a_body_below_8_kb_a_second_is_cut_off_after_10_seconds():
    seconds, message = cut_off(dripping(LIMIT - 1, piece=7 * 1024, every=1))
    assert seconds == pytest.approx(10, abs=1)
    assert "at least 8 kB/s" in message


def test_a_body_that_stops_after_a_good_start_is_cut_off():
    seconds, _ = cut_off(dripping(LIMIT - 1, piece=500_000, every=60))
    assert seconds == pytest.approx(10, abs=1)


def test_a_slow_host_is_cut_off_when_the_jobs_time_is_over():
    seconds, message = cut_off(dripping(LIMIT - 1, piece=9 * 1024, every=1), seconds=35)
    assert seconds == pytest.approx(35, abs=1)
    assert "within 35 s" in message


def test_redirects_share_one_deadline():
    async def work() -> float:
        async def slow(head: str, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(15)
            await redirect("/a")(head, writer)

        async with host({"/a": slow}) as site:
            fetcher = local(site.port, resolver=answering("127.0.0.1"))
            with pytest.raises(InputUnavailable):
                await fetch(f"http://127.0.0.1:{site.port}/a", fetcher, seconds=40)
            return asyncio.get_running_loop().time()

    assert idle_time.run(work()) == pytest.approx(40, abs=1)


def test_a_steady_host_of_little_more_than_8_kb_a_second_is_good_enough():
    async def work() -> int:
        answers = {"/a": dripping(540 * 1024, piece=9 * 1024, every=1)}
        async with host(answers) as site:
            fetcher = local(site.port, resolver=answering("127.0.0.1"))
            return len(await fetch(f"http://127.0.0.1:{site.port}/a", fetcher))

    assert idle_time.run(work()) == 540 * 1024


def test_a_slow_lookup_is_part_of_the_time():
    async def work() -> float:
        async def never_answering(name: str, port: int) -> list[str]:
            await asyncio.sleep(1000)
            return []

        with pytest.raises(InputUnavailable):
            await fetch("https://slow.example/a", Fetcher(resolver=never_answering), seconds=30)
        return asyncio.get_running_loop().time()

    assert idle_time.run(work()) == pytest.approx(30, abs=0.1)


# --- what is no host's fault ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_a_machine_without_open_files_blames_no_host(number, monkeypatch):
    def none_left(*_arguments, **_more):
        raise OSError(number, "none left")

    async with host({"/a": reply(b"sound")}) as site:
        fetcher = local(site.port, resolver=answering("127.0.0.1"))
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", none_left)
            with pytest.raises(OSError) as failed:
                await fetch(f"http://127.0.0.1:{site.port}/a", fetcher)
    assert failed.value.errno == number


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.EMFILE, "none left"), OSError),
        (socket.gaierror(socket.EAI_MEMORY, "none left"), MemoryError),
        (socket.gaierror(socket.EAI_FAIL, "the name server fails"), InputUnavailable),
        (socket.gaierror(socket.EAI_NODATA, "no address"), JobFailed),
    ],
)
async def test_a_failing_lookup_blames_the_host_only_for_a_name_that_does_not_exist(error, raised):
    async def failing(name: str, port: int) -> list[str]:
        raise error

    with pytest.raises(raised):
        await fetch("https://h.example/a", Fetcher(resolver=failing))


def test_the_number_of_a_tls_error_is_no_trouble_of_the_machine():
    """SSL_ERROR_SYSCALL is 5, as is the number of a broken disk."""
    raise_machine_trouble(ssl.SSLSyscallError(errno.EIO, "EOF"))
    raise_machine_trouble(None)


async def test_nobody_listening_is_tried_again_later():
    async with host({}) as site:
        port = site.port
    with pytest.raises(InputUnavailable):
        await fetch(f"http://127.0.0.1:{port}/a", local(port))


@pytest.mark.parametrize(
    ("errno", "kind"), [(socket.EAI_NONAME, JobFailed), (socket.EAI_AGAIN, InputUnavailable)]
)
async def test_an_unknown_name_ends_the_job_and_a_failing_resolver_does_not(errno, kind):
    async def failing(name: str, port: int) -> list[str]:
        raise socket.gaierror(errno, "no")

    with pytest.raises(kind) as failed:
        await fetch("https://gone.example/a?token=SECRET", Fetcher(resolver=failing))
    assert failed.value.code == "audio_unreachable"
    assert "SECRET" not in failed.value.message


async def test_a_name_without_addresses_is_unreachable():
    failed = await refusal("https://empty.example/a", Fetcher(resolver=answering()))
    assert failed.code == "audio_unreachable"


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
async def test_the_limit_itself_is_already_too_large(size):
    async with host({"/a": reply(bytes(size))}) as site:
        url = f"http://127.0.0.1:{site.port}/a"
        if size < LIMIT:
            assert len(await fetch(url, local(site.port))) == size
        else:
            failed = await refusal(url, local(site.port), kind="image")
            assert failed.code == "image_too_large"
            assert "1 MiB" in failed.message


async def test_a_body_without_length_is_cut_off_at_the_limit():
    async def endless(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
            await writer.drain()

    async with host({"/a": endless}) as site:
        into = io.BytesIO()
        with pytest.raises(JobFailed) as failed:
            await local(site.port).fetch(
                f"http://127.0.0.1:{site.port}/a",
                kind="audio",
                limit=LIMIT,
                into=into,
                deadline=Deadline.after(60),
            )
        assert failed.value.code == "audio_too_large"
        assert len(into.getvalue()) < LIMIT


async def test_a_stated_length_beyond_the_limit_is_enough():
    answer = reply(b"x", headers={"Content-Length": "99999999999999"})
    async with host({"/a": answer}) as site:
        failed = await refusal(f"http://127.0.0.1:{site.port}/a", local(site.port))
        assert failed.code == "audio_too_large"


@pytest.mark.parametrize(
    ("pack", "name"),
    [(gzip.compress, "gzip"), (zlib.compress, "deflate"), (gzip.compress, "x-gzip")],
)
async def test_a_compressed_answer_is_decompressed_and_measured_then(pack, name):
    body = {"/a": reply(pack(b"sound" * 1000), headers={"Content-Encoding": name})}
    body["/bomb"] = reply(pack(bytes(LIMIT * 20)), headers={"Content-Encoding": name})
    async with host(body) as site:
        url = f"http://127.0.0.1:{site.port}"
        assert await fetch(f"{url}/a", local(site.port)) == b"sound" * 1000
        assert (await refusal(f"{url}/bomb", local(site.port))).code == "audio_too_large"


async def test_a_decompression_bomb_is_never_in_memory():
    bomb = gzip.compress(bytes(LIMIT * 40))
    async with host({"/bomb": reply(bomb, headers={"Content-Encoding": "gzip"})}) as site:
        fetcher = local(site.port)
        tracemalloc.start()
        failed = await refusal(f"http://127.0.0.1:{site.port}/bomb", fetcher)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert failed.code == "audio_too_large"
    assert peak < 4 * LIMIT


@pytest.mark.parametrize(
    ("name", "body"), [("br", b"x"), ("gzip", b"no gzip"), ("gzip, gzip", b"")]
)
async def test_other_encodings_are_refused(name, body):
    async with host({"/a": reply(body, headers={"Content-Encoding": name})}) as site:
        failed = await refusal(f"http://127.0.0.1:{site.port}/a", local(site.port))
        assert failed.code == "audio_unreadable"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h.example/a.mp3?token=SECRET", "https://h.example/a.mp3"),
        ("https://u:SECRET@h.example/x/SECRET/a.mp3#SECRET", "https://h.example/…/a.mp3"),
        ("https://h.example:8443", "https://h.example:8443/"),
        ("https://h.example:port/", "the address"),
    ],
)
def test_addresses_are_shown_without_their_secrets(url, shown):
    assert show(url) == shown


async def test_proxies_of_the_environment_are_not_used(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with host({"/a": reply(b"sound")}) as site:
        assert await fetch(f"http://127.0.0.1:{site.port}/a", local(site.port)) == b"sound"
