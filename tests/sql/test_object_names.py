"""Which object of Storage an address names: read by Postgres, judged by Python's urllib."""

from __future__ import annotations

import string
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.postgres import Database

# What Storage accepts in a name, and Unicode, which newer versions accept as well.
LETTERS = string.ascii_letters + string.digits + "_!.-*'() &$@=;:+,?%#" + "éß漢🎤"
segments = st.text(LETTERS, min_size=1, max_size=8).filter(
    lambda s: s.strip() not in ("", ".", "..")
)
paths = st.lists(segments, min_size=1, max_size=4).map("/".join).filter(lambda p: p == p.strip())
buckets = st.sampled_from(["inputs", "video-images", "video-audio", "my.bucket"])
hosts = st.sampled_from(["https://abc.supabase.co", "HTTPS://videos.example", "http://127.0.0.1:9"])
routes = st.sampled_from([
    "object/public/", "object/sign/", "object/authenticated/", "object/", "render/image/public/",
    "render/image/sign/", "s3/",
])  # fmt: skip
detours = st.sampled_from(["", "/x/..", "/.", "/a/b/../.."])
tails = st.sampled_from(["", "?token=a.b/c%2F", "?download=x", "#t=1"])
spaces = st.sampled_from(["", " ", "\n\t", "\u00a0"])


@st.composite
def encoded(draw: st.DrawFn, text: str) -> str:
    """A path with any of its characters escaped, but always those that would end it."""
    must = "%?#"
    return "".join(
        quote(letter, safe="")
        if letter in must or (letter != "/" and draw(st.booleans()))
        else letter
        for letter in text
    )


@st.composite
def addresses(draw: st.DrawFn, bucket: str, path: str) -> str:
    """Any way to name the object in a row."""
    if draw(st.booleans()):
        address = f"storage://{bucket}/{path}"
    else:
        address = (
            draw(hosts) + draw(detours) + "/storage/v1/" + draw(routes)
            + draw(encoded(f"{bucket}/{path}")) + draw(tails)
        )  # fmt: skip
    return draw(spaces) + address + draw(spaces)


def named(database: Database, address: str) -> str | None:
    found = database.row("select public.video_job_object_v1(%s) as object", address)["object"]
    return None if found is None else str(found)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), bucket=buckets, path=paths)
def test_any_way_to_name_an_object_is_understood(
    database: Database, data: st.DataObject, bucket: str, path: str
) -> None:
    address = data.draw(addresses(bucket, path))
    assert named(database, address) == f"{bucket}/{path}"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(address=st.text(max_size=2048).filter(lambda text: "\x00" not in text))
def test_no_text_at_all_fails_an_insert(database: Database, address: str) -> None:
    """The function fills an index: an error in it would refuse the row."""
    named(database, address)
    named(database, f"https://a.example/storage/v1/object/public/b/{address}")


@pytest.mark.parametrize(
    "address",
    [
        "https://a.example/face.jpg",
        "https://a.example/?u=/storage/v1/object/public/inputs/a.jpg",
        "https://a.example/%FF/storage/v1/object/public/inputs/a.jpg",
        "https://a.example/storage/v1/object/public/inputs/%00.jpg",
        "storage://inputs/" + "a" * 2000,
        "",
    ],
)
def test_other_addresses_name_none(database: Database, address: str) -> None:
    assert named(database, address) is None


def test_a_browser_may_insert_any_address(database: Database) -> None:
    """Postgres checks the right to call a function of an index for whoever inserts."""
    user = database.row("select gen_random_uuid() as id")["id"]
    (row,) = database.role(
        "authenticated",
        "insert into public.video_jobs (user_id, image_url, audio_url) values (%s, %s, %s)"
        " returning image_url",
        user, "https://a.example/%41/b.jpg", "storage://inputs/" + "漢" * 600, user=user,
    )  # fmt: skip
    assert row["image_url"] == "https://a.example/%41/b.jpg"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.role("anon", "select public.video_job_object_v1('storage://a/b')")
