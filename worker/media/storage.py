"""Supabase Storage over its REST API: reads private inputs, stores and signs prepared ones."""

from __future__ import annotations

import asyncio
import io
import re
import ssl
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx

from worker.jobs.errors import (
    BucketUnusable,
    InputUnavailable,
    JobFailed,
    StoreUnavailable,
    TransientError,
)
from worker.media.fetch import Deadline, copy_body, raise_machine_trouble, retry_after
from worker.media.first_look import Kind
from worker.runtime.network import why

SCHEME = "storage://"
# The characters that Supabase Storage accepts in an object's name.
_NAME = re.compile(r"[A-Za-z0-9_/!.\-*'() &$@=;:+,?]{1,1024}")
_BUCKET = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
_PAGE = 100
_PIECE = 64 * 1024
_BUSY = "The service has too many transfers under way."


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectName:
    """One object of Storage."""

    bucket: str
    path: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.path}"

    @property
    def quoted(self) -> str:
        """The name as part of a URL, each segment escaped."""
        return "/".join(quote(part, safe="") for part in (self.bucket, *self.path.split("/")))


def parse_storage_url(
    url: str, *, kind: Kind, buckets: Collection[str], user_id: str | None
) -> ObjectName:
    """Return the object of a `storage://bucket/path` address.

    Raise JobFailed `input_forbidden` if the row's user may not read it.
    """
    bucket, _, path = url.removeprefix(SCHEME).partition("/")
    segments = path.split("/")
    if not _BUCKET.fullmatch(bucket) or not _NAME.fullmatch(path) or bucket.strip(".") == "":
        raise _forbidden(kind, "use storage://bucket/path with the exact name of the stored object")
    if any(segment.strip() in ("", ".", "..") for segment in segments):
        raise _forbidden(kind, "its path has an empty segment, . or ..")
    if bucket not in buckets:
        raise _forbidden(kind, f"bucket {bucket} is not open for inputs")
    if user_id is not None and (segments[0] != user_id.lower() or len(segments) < 2):
        raise _forbidden(kind, "it is not in the folder named after your user id")
    return ObjectName(bucket=bucket, path=path)


def _forbidden(kind: Kind, why: str) -> JobFailed:
    return JobFailed("input_forbidden", f"This {kind} is not allowed: {why}.")


class StorageApi:
    """The calls that the worker makes, with the service key."""

    def __init__(self, *, url: str, key: str, client: httpx.AsyncClient) -> None:
        self._base = url.rstrip("/") + "/storage/v1"
        self._headers = {"apikey": key, "Authorization": f"Bearer {key}"}
        self._client = client

    async def download(
        self, name: ObjectName, *, kind: Kind, limit: int, into: BinaryIO, deadline: Deadline
    ) -> None:
        """Write an object, which must be smaller than `limit` bytes, into a file and rewind it.

        Raise JobFailed if the object cannot be used, InputUnavailable if Storage does not deliver
        it in time, and TransientError or OSError if this service or machine is short of something.
        """
        url = f"{self._base}/object/{name.quoted}"
        headers = {**self._headers, "Accept-Encoding": "identity"}
        try:
            async with (
                asyncio.timeout_at(deadline.at),
                self._client.stream("GET", url, headers=headers) as response,
            ):
                if response.status_code != 200:
                    await _refuse_download(response, kind=kind, name=name)
                await copy_body(response, kind=kind, limit=limit, into=into)
        except httpx.PoolTimeout as error:
            raise TransientError(_BUSY) from error
        except (httpx.TransportError, ssl.SSLError, TimeoutError) as error:
            raise_machine_trouble(error)
            raise InputUnavailable(
                f"{kind}_unreachable",
                f"The {kind} could not be read from Supabase Storage: {why(error)}.",
            ) from error
        finally:
            into.seek(0)

    async def sign(self, name: ObjectName, *, seconds: int, kind: Kind) -> str:
        """Return a URL that reads the object without a key for `seconds`; keep it secret.

        Raise JobFailed or InputUnavailable if the object cannot be read, and StoreUnavailable if
        Storage is away.
        """
        response = await self._call(
            "POST", f"object/sign/{name.quoted}", json={"expiresIn": max(seconds, 1)}
        )
        if response.status_code != 200:
            await _refuse_download(response, kind=kind, name=name)
        signed = _json(response).get("signedURL")
        if not isinstance(signed, str) or not signed.startswith("/"):
            raise StoreUnavailable("Supabase Storage answered without a signed URL.")
        return self._base + signed

    async def upload(self, name: ObjectName, data: bytes | BinaryIO, *, content_type: str) -> None:
        """Store a new object, never in place of another; raise StoreUnavailable if that fails.

        Raise BucketUnusable if the bucket is missing or does not take it. A file is sent from its
        start in small pieces, so that it is never in memory as a whole.
        """
        headers = {"Content-Type": content_type, "x-upsert": "false"}
        content: bytes | AsyncIterator[bytes]
        if isinstance(data, bytes):
            content = data
        else:
            headers["Content-Length"] = str(data.seek(0, io.SEEK_END))
            content = _pieces(data)
        response = await self._call(
            "POST", f"object/{name.quoted}", content=content, headers=headers
        )
        if response.status_code != 200:
            away = _status(response) >= 500 or _status(response) in (401, 403, 409, 429)
            raise (StoreUnavailable if away else BucketUnusable)(
                f"Supabase Storage did not store an object in bucket {name.bucket}: "
                f"{_reason(response)}."
            )

    async def has_bucket(self, bucket: str) -> bool:
        """Return whether a bucket exists; raise StoreUnavailable if nobody can say."""
        response = await self._call("GET", f"bucket/{quote(bucket, safe='')}")
        if response.status_code != 200 and _status(response) != 404:
            raise StoreUnavailable(
                f"Supabase Storage does not describe bucket {bucket}: {_reason(response)}."
            )
        return response.status_code == 200

    async def delete(self, bucket: str, paths: Sequence[str]) -> None:
        """Delete objects, ignoring missing ones; raise StoreUnavailable if that fails."""
        for start in range(0, len(paths), _PAGE):
            response = await self._call(
                "DELETE",
                f"object/{quote(bucket, safe='')}",
                json={"prefixes": paths[start : start + _PAGE]},
            )
            if response.status_code != 200:
                raise StoreUnavailable(
                    f"Supabase Storage did not delete from bucket {bucket}: {_reason(response)}."
                )

    async def _call(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        headers = {**self._headers, **kwargs.pop("headers", {})}
        try:
            response = await self._client.request(
                method, f"{self._base}/{path}", headers=headers, **kwargs
            )
        except httpx.PoolTimeout as error:
            raise StoreUnavailable(_BUSY) from error
        except (httpx.TransportError, ssl.SSLError) as error:
            raise_machine_trouble(error)
            raise StoreUnavailable(
                f"Supabase Storage could not be reached: {why(error)}."
            ) from error
        if response.status_code >= 500 or response.status_code == 429:
            raise StoreUnavailable(
                f"Supabase Storage answered {response.status_code}.",
                retry_in=retry_after(response),
            )
        return response


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    file.seek(0)
    while piece := file.read(_PIECE):
        yield piece


def _json(response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _status(response: httpx.Response) -> int:
    """Return the real status: Storage sends its own in the body of an HTTP 400."""
    stated = str(_json(response).get("statusCode", ""))
    return int(stated) if stated.isascii() and stated.isdigit() else response.status_code


def _reason(response: httpx.Response) -> str:
    message = str(_json(response).get("message", ""))[:200]
    return f"{_status(response)} {message}".strip()


async def _refuse_download(response: httpx.Response, *, kind: Kind, name: ObjectName) -> None:
    await response.aread()
    status = _status(response)
    if status == 404:
        raise JobFailed(f"{kind}_unreachable", f"Supabase Storage has no object {name}.")
    if status >= 500 or status in (401, 403, 429):
        raise InputUnavailable(
            f"{kind}_unreachable",
            f"Supabase Storage answered {status} for the {kind}.",
            retry_in=retry_after(response),
        )
    raise JobFailed(
        f"{kind}_unreachable", f"Supabase Storage refused the {kind}: {_reason(response)}."
    )
