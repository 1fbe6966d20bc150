"""Checks of Storage: the buckets that rows name, the one we write to, and where videos end up."""

from __future__ import annotations

import uuid
from urllib.parse import quote, urlsplit

import httpx

from worker.doctor.context import Context, words
from worker.doctor.result import Result, fail, ok, warn

# The smallest PNG there is: a bucket may take nothing but media.
_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080600000"
    "01f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)
_ORIGIN = "https://app.example.com"


async def check_input_buckets(context: Context) -> Result:
    """INPUT_BUCKETS exist and are private."""
    name = "storage.inputs"
    buckets = context.settings.input_buckets
    if not buckets:
        return ok(name, "INPUT_BUCKETS is unset: rows name https:// addresses alone.")
    for bucket in buckets:
        answer = await context.supabase("GET", f"/storage/v1/bucket/{quote(bucket, safe='')}")
        if missing := _missing(name, answer, bucket, "INPUT_BUCKETS"):
            return missing
        if answer.json().get("public"):
            return fail(
                name,
                f"The bucket {bucket} is public: whoever has an address can load people's files.",
                f"Make {bucket} private in the dashboard; the worker reads it with its own key.",
            )
    return ok(name, f"{', '.join(buckets)}: there and private.")


async def check_media_bucket(context: Context) -> Result:
    """MEDIA_BUCKET takes, gives and forgets an object."""
    name = "storage.prepared"
    bucket = context.settings.media_bucket
    if not bucket:
        return ok(name, "MEDIA_BUCKET is unset: RunPod reads the originals.")
    about = await context.supabase("GET", f"/storage/v1/bucket/{quote(bucket, safe='')}")
    if missing := _missing(name, about, bucket, "MEDIA_BUCKET"):
        return missing
    path = f"doctor/{uuid.uuid4()}.png"
    address = f"/storage/v1/object/{quote(bucket, safe='')}/{path}"
    put = await context.supabase(
        "POST", address, content=_PIXEL, headers={"Content-Type": "image/png"}
    )
    if put.status_code != 200:
        return fail(
            name,
            f"The bucket {bucket} takes no image: {words(put)[1] or put.status_code}.",
            f"Let {bucket} take image/png, image/jpeg and audio/mpeg of at least 50 MB.",
        )
    got = await context.supabase("GET", address)
    gone = await context.supabase(
        "DELETE", f"/storage/v1/object/{quote(bucket, safe='')}", json={"prefixes": [path]}
    )
    if got.content != _PIXEL or gone.status_code != 200:
        what = "read back" if got.content != _PIXEL else "deleted"
        return fail(
            name,
            f"An object in {bucket} could not be {what}.",
            "Look at Storage's logs in the dashboard; the service key must be able to do both.",
        )
    if about.json().get("public"):
        return warn(
            name,
            f"The bucket {bucket} is public, though it holds copies of people's files.",
            f"Make {bucket} private; the worker signs the addresses that RunPod gets.",
        )
    return ok(name, f"{bucket}: written, read and deleted.")


def _missing(name: str, answer: httpx.Response, bucket: str, setting: str) -> Result | None:
    if answer.status_code == 200:
        return None
    said = words(answer)[1] or f"HTTP {answer.status_code}"
    return fail(
        name,
        f"The bucket {bucket} cannot be used: {said}.",
        f"Create a private bucket named {bucket} in the dashboard, or mend {setting}.",
    )


async def check_results(context: Context) -> Result:
    """Whether browsers can play the latest video."""
    name = "storage.results"
    answer = await context.supabase(
        "GET",
        "/rest/v1/video_jobs?select=video_url&status=eq.completed"
        "&order=completed_at.desc.nullslast&limit=1",
    )
    rows = answer.json() if answer.status_code == 200 else None
    if not isinstance(rows, list):
        return warn(name, "Not checked: the table cannot be read.", "Mend supabase.grants first.")
    if not rows:
        return ok(name, "Not checked: there is no finished video yet.")
    url = rows[0]["video_url"]
    try:
        headers = {"Range": "bytes=0-1023", "Origin": _ORIGIN}
        async with context.http.stream(
            "GET", url, headers=headers, follow_redirects=True
        ) as response:
            return _judge(name, url, response)
    except httpx.HTTPError as error:
        return fail(
            name,
            f"The latest video cannot be loaded ({type(error).__name__}).",
            "Check the result bucket's public address in the endpoint's environment variables.",
        )


def _judge(name: str, url: str, response: httpx.Response) -> Result:
    host = urlsplit(url).hostname or ""
    if response.status_code not in (200, 206):
        return fail(
            name,
            f"The latest video answers HTTP {response.status_code} at {host}.",
            "Check that the result bucket is public, its address in the endpoint's environment "
            "variables is right, and no lifecycle rule deletes videos early.",
        )
    kind = response.headers.get("content-type", "")
    if not kind.startswith("video/"):
        return fail(
            name,
            f"The latest video comes as {kind or 'nothing in particular'}, not as video/mp4.",
            "Let the endpoint's handler upload with ContentType video/mp4.",
        )
    if response.status_code != 206:
        return warn(
            name,
            f"{host} ignores Range: Safari does not play such videos, others cannot seek.",
            "Serve results from storage that answers 206, such as R2, S3 or Supabase Storage.",
        )
    allowed = response.headers.get("access-control-allow-origin")
    if allowed not in ("*", _ORIGIN):
        return warn(
            name,
            f"{host} sends no CORS header: pages can play videos, but not download or edit them.",
            "Add a CORS rule with GET and HEAD for your app's origin to the result bucket.",
        )
    if host.endswith(".r2.dev"):
        return warn(
            name,
            "Videos come from r2.dev, which Cloudflare slows down.",
            "Connect a domain of your own to the R2 bucket.",
        )
    return ok(name, f"The latest video comes from {host} as {kind}, with ranges and CORS.")
