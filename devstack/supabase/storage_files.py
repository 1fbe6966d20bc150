"""Stored objects on disk, uploads from requests, and errors in the form of Storage."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from devstack.supabase.tokens import KeyRefused, TokenInvalid

GLOBAL_SIZE_LIMIT = 50 * 1024 * 1024
CHUNK = 1024 * 1024


class StorageError(Exception):
    """An error with Storage's body; always sent with HTTP 400, whatever `status` is."""

    def __init__(self, status: int, error: str, message: str, code: str) -> None:
        super().__init__(message)
        self.body = {"statusCode": str(status), "error": error, "message": message, "code": code}


def not_found() -> StorageError:
    return StorageError(404, "not_found", "Object not found", "NoSuchKey")


def no_bucket() -> StorageError:
    return StorageError(404, "Bucket not found", "Bucket not found", "NoSuchBucket")


def duplicate() -> StorageError:
    return StorageError(409, "Duplicate", "The resource already exists", "ResourceAlreadyExists")


def invalid(message: str) -> StorageError:
    return StorageError(400, "invalid_request", message, "InvalidRequest")


def too_large() -> StorageError:
    message = "The object exceeded the maximum allowed size"
    return StorageError(413, "Payload too large", message, "EntityTooLarge")


Endpoint = Callable[[Request], Awaitable[Response]]


def answering(endpoint: Endpoint) -> Endpoint:
    """Turn every error of an endpoint into Storage's error body."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except StorageError as error:
            refused = error
        except TokenInvalid as error:
            refused = StorageError(403, "Unauthorized", error.message, "InvalidJWT")
        except KeyRefused:
            refused = StorageError(403, "Unauthorized", "Invalid API key", "AccessDenied")
        except psycopg.errors.UniqueViolation:
            refused = duplicate()
        except psycopg.errors.InsufficientPrivilege as error:
            words = error.diag.message_primary or "permission denied"
            # The hosted service names no table here.
            message = words.split(" for table ")[0]
            refused = StorageError(403, "Unauthorized", message, "AccessDenied")
        return JSONResponse(refused.body, status_code=400)

    return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file on disk that has no row yet."""

    version: str
    path: Path
    size: int
    content_type: str
    cache_control: str
    etag: str
    user_metadata: str | None

    def metadata(self) -> str:
        return json.dumps(
            {
                "eTag": f'"{self.etag}"',
                "size": self.size,
                "mimetype": self.content_type,
                "cacheControl": f"max-age={self.cache_control}",
                "lastModified": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "contentLength": self.size,
                "httpStatusCode": 200,
            }
        )


class FileStore:
    """Keeps one file per object version, in one directory per bucket."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, bucket: str, version: str) -> Path:
        return self._directory / bucket / version

    def remove(self, bucket: str, version: str | None) -> None:
        if version:
            self.path(bucket, version).unlink(missing_ok=True)

    async def receive(self, request: Request, bucket: str, limit: int) -> Upload:
        """Write the request's file to disk; raise StorageError 413 beyond `limit` bytes."""
        version = str(uuid.uuid4())
        path = self.path(bucket, version)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return await self._write(request, path, limit)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    async def _write(self, request: Request, path: Path, limit: int) -> Upload:
        digest, size = hashlib.md5(usedforsecurity=False), 0
        content_type = request.headers.get("content-type", "application/octet-stream")
        cache_control = request.headers.get("cache-control", "max-age=3600").removeprefix(
            "max-age="
        )
        user_metadata = None
        with path.open("wb") as target:
            if content_type.startswith("multipart/form-data"):
                async with request.form() as form:
                    # The Python client names the field "file", the JavaScript client "".
                    files = [value for value in form.values() if isinstance(value, UploadFile)]
                    if len(files) != 1:
                        raise invalid("exactly one file is expected")
                    content_type = files[0].content_type or "application/octet-stream"
                    cache_control = str(form.get("cacheControl", cache_control))
                    described = form.get("metadata")
                    user_metadata = described if isinstance(described, str) else None
                    while chunk := await files[0].read(CHUNK):
                        size = _checked(size + len(chunk), limit)
                        digest.update(chunk)
                        target.write(chunk)
            else:
                async for chunk in request.stream():
                    size = _checked(size + len(chunk), limit)
                    digest.update(chunk)
                    target.write(chunk)
        return Upload(
            version=path.name,
            path=path,
            size=size,
            content_type=content_type,
            cache_control=cache_control,
            etag=digest.hexdigest(),
            user_metadata=user_metadata,
        )

    def response(
        self,
        bucket: str,
        row: dict[str, object],
        *,
        download: str | None = None,
        expires: float | None = None,
    ) -> Response:
        """Serve an object, whole or in ranges."""
        path = self.path(bucket, str(row["version"]))
        metadata = row["metadata"]
        assert isinstance(metadata, dict)
        if not path.is_file():
            raise not_found()
        headers = {"ETag": metadata["eTag"], "Cache-Control": metadata["cacheControl"]}
        if expires is not None:
            when = datetime.fromtimestamp(expires, UTC)
            headers["Expires"] = when.strftime("%a, %d %b %Y %H:%M:%S GMT")
        response = FileResponse(
            path,
            media_type=metadata["mimetype"],
            headers=headers,
            filename=(download or Path(str(row["name"])).name) if download is not None else None,
        )
        # Starlette would add a charset to texts; the stored type is what was uploaded.
        response.headers["Content-Type"] = metadata["mimetype"]
        return response


def _checked(size: int, limit: int) -> int:
    if size > limit:
        raise too_large()
    return size
