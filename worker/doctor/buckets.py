"""Checks of Storage: the buckets of inputs and of prepared inputs, and the latest video."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from worker.doctor.context import Context, error_of
from worker.doctor.result import Result, fail, ok, warn
from worker.runtime.network import why

# A PNG of one pixel: the bucket may accept only media.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080600000"
    "01f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)
# A prepared image of 1920x1920 has up to 11 MB, a minute of prepared sound up to 12 MB.
_PREPARED_BYTES = 20 * 1024 * 1024
_ORIGIN = "https://app.example.com"
# What people upload, and the first parts of the MIME types that browsers give it.
_MEDIA_TYPES = {
    "images": {"image", "*"},
    "recordings": {"audio", "video", "*"},
}


async def check_input_buckets(context: Context) -> Result:
    """Check that INPUT_BUCKETS exist and are private."""
    name = "storage.inputs"
    buckets = context.settings.input_buckets
    if not buckets:
        return ok(name, "INPUT_BUCKETS is none: rows may use https:// URLs only.")
    kinds: set[str] = set()
    for bucket in buckets:
        answer = await context.supabase("GET", f"/storage/v1/bucket/{quote(bucket, safe='')}")
        if missing := _missing(name, answer, bucket, "INPUT_BUCKETS"):
            return missing
        if answer.json().get("public"):
            return fail(
                name,
                f"The bucket {bucket} is public: anyone with a URL can download users' files.",
                f"Make {bucket} private in the dashboard; the worker uses its service key.",
            )
        sizes = {
            "an image": context.settings.max_image_bytes,
            "a recording": context.settings.max_audio_bytes,
        }
        if problem := _limits(name, bucket, answer.json(), sizes):
            return problem
        kinds |= _kinds(answer.json())
    if missing_kinds := sorted(_MEDIA_TYPES.keys() - kinds):
        return fail(
            name,
            f"The allowed MIME types of {', '.join(buckets)} permit no upload of "
            f"{' and '.join(missing_kinds)}.",
            "Remove the allowed MIME types in the dashboard (Storage > Edit bucket), or add "
            "image/*, audio/* and video/*.",
        )
    return ok(name, f"{', '.join(buckets)}: found, private.")


def _kinds(about: Mapping[str, Any]) -> set[str]:
    """Return what may be uploaded to a bucket: images, recordings, or both."""
    allowed = about.get("allowed_mime_types") or ["*/*"]
    families = {str(kind).partition("/")[0] for kind in allowed}
    return {what for what, good in _MEDIA_TYPES.items() if families & good}


async def check_media_bucket(context: Context) -> Result:
    """Check that an object can be written to, read from and deleted in MEDIA_BUCKET."""
    name = "storage.prepared"
    bucket = context.settings.prepared_bucket
    if bucket is None:
        return ok(name, "PASS_ORIGINALS is true: RunPod downloads the original files.")
    about = await context.supabase("GET", f"/storage/v1/bucket/{quote(bucket, safe='')}")
    if missing := _missing(name, about, bucket, "MEDIA_BUCKET"):
        return missing
    if problem := _limits(name, bucket, about.json(), {"a prepared input": _PREPARED_BYTES}):
        return problem
    path = f"doctor/{uuid.uuid4()}.png"
    url_path = f"/storage/v1/object/{quote(bucket, safe='')}/{path}"
    put = await context.supabase(
        "POST", url_path, content=PIXEL, headers={"Content-Type": "image/png"}
    )
    if put.status_code != 200:
        return fail(
            name,
            f"The bucket {bucket} does not accept an image: {error_of(put)[1] or put.status_code}.",
            f"Allow image/png, image/jpeg and audio/flac of at least 50 MB in {bucket}.",
        )
    got = await context.supabase("GET", url_path)
    gone = await context.supabase(
        "DELETE", f"/storage/v1/object/{quote(bucket, safe='')}", json={"prefixes": [path]}
    )
    if got.content != PIXEL or gone.status_code != 200:
        what = "read back" if got.content != PIXEL else "deleted"
        return fail(
            name,
            f"An object in {bucket} could not be {what}.",
            "Check Storage's logs in the dashboard; the service key must be able to do both.",
        )
    if about.json().get("public"):
        return fail(
            name,
            f"The bucket {bucket} is public, but it holds copies of users' files.",
            f"Make {bucket} private; RunPod gets signed URLs.",
        )
    return ok(name, f"{bucket}: an object was written, read and deleted.")


def _missing(name: str, answer: httpx.Response, bucket: str, setting: str) -> Result | None:
    if answer.status_code == 200:
        return None
    message = error_of(answer)[1] or f"HTTP {answer.status_code}"
    return fail(
        name,
        f"The bucket {bucket} cannot be used: {message}.",
        f"Run the migrations, or create a private bucket named {bucket} in the dashboard, or "
        f"correct {setting}.",
    )


def _limits(
    name: str, bucket: str, about: Mapping[str, Any], sizes: Mapping[str, int]
) -> Result | None:
    """Judge the bucket's own limits against the sizes in bytes that the worker needs or permits.

    Less than a tenth of the smallest refuses ordinary files. A bucket may be meant for images alone
    or for sound alone, so only the smallest size is asked for.
    """
    limit = about.get("file_size_limit")
    if not isinstance(limit, int):
        return None
    what, size = min(sizes.items(), key=lambda item: item[1])
    if limit >= size:
        return None
    message = (
        f"The bucket {bucket} refuses files above {_size(limit)}; {what} may have {_size(size)}."
    )
    fix = f"Raise the file size limit of {bucket} in the dashboard (Storage > Edit bucket)."
    return (fail if limit < size // 10 else warn)(name, message, fix)


def _size(count: int) -> str:
    return f"{count / 1024 / 1024:.0f} MiB" if count >= 1024 * 1024 else f"{count} bytes"


async def check_results(context: Context) -> Result:
    """Check that browsers can play the latest video."""
    name = "storage.results"
    answer = await context.supabase(
        "GET",
        "/rest/v1/video_jobs?select=video_url&status=eq.completed"
        "&order=completed_at.desc.nullslast&limit=1",
    )
    rows = answer.json() if answer.status_code == 200 else None
    if not isinstance(rows, list):
        return warn(name, "Not checked: the table cannot be read.", "Fix supabase.grants first.")
    if not rows:
        return ok(name, "Not checked: there is no finished video yet.")
    url = rows[0]["video_url"]
    try:
        headers = {"Range": "bytes=0-1023", "Origin": _ORIGIN}
        async with context.http.stream(
            "GET", url, headers=headers, follow_redirects=True
        ) as response:
            return _judge(name, url, response)
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
        return fail(
            name,
            f"The latest video cannot be downloaded: {why(error)}.",
            "Check the result bucket's public URL in the endpoint's environment variables.",
        )


def _judge(name: str, url: str, response: httpx.Response) -> Result:
    host = urlsplit(url).hostname or ""
    if response.status_code not in (200, 206):
        return fail(
            name,
            f"{host} answers HTTP {response.status_code} for the latest video.",
            "Check that the result bucket is public, its URL in the endpoint's environment "
            "variables is right, and no lifecycle rule deletes videos early.",
        )
    kind = response.headers.get("content-type", "")
    if not kind.startswith("video/"):
        return fail(
            name,
            f"The latest video has {f'Content-Type {kind}' if kind else 'no Content-Type'} "
            "instead of video/mp4.",
            "Make the endpoint's handler upload with ContentType video/mp4.",
        )
    if response.status_code != 206:
        return warn(
            name,
            f"{host} ignores Range requests: Safari cannot play videos, others cannot seek.",
            "Serve results from storage that answers 206, such as R2, S3 or Supabase Storage.",
        )
    allowed = response.headers.get("access-control-allow-origin")
    if allowed not in ("*", _ORIGIN):
        return warn(
            name,
            f"{host} sends no CORS header: pages can play videos, but not download or edit them.",
            "Add a CORS rule to the result bucket: GET and HEAD for your app's origin.",
        )
    if host.endswith(".r2.dev"):
        return warn(
            name,
            "Videos are served from r2.dev, which Cloudflare rate-limits.",
            "Connect your own domain to the R2 bucket.",
        )
    return ok(name, f"{host} serves the latest video as {kind}, with Range requests and CORS.")
