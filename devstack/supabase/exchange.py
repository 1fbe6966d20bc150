"""One REST request: options from headers and query, and the answer from its rows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from devstack.supabase.errors import ApiError
from devstack.supabase.pool import Connection

MAX_ROWS = 1000
JSON = "application/json; charset=utf-8"
OBJECT = "application/vnd.pgrst.object+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The rows of a statement as JSON text, their number, and the total number."""

    body: str
    rows: int
    total: int | None = None
    offset: int = 0


class Exchange:
    """The parts of a request that are neither SQL nor identity."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.method = request.method
        self.params = list(request.query_params.multi_items())
        self.prefer = _preferences(request.headers.getlist("prefer"))
        self.wants_object = OBJECT in request.headers.get("accept", "")

    def param(self, name: str) -> str | None:
        return next((value for key, value in self.params if key == name), None)

    @property
    def schema(self) -> str:
        header = "accept-profile" if self.method in ("GET", "HEAD") else "content-profile"
        return self.request.headers.get(header, "public")

    @property
    def returns_rows(self) -> bool:
        return self.prefer.get("return") == "representation"

    @property
    def counts(self) -> bool:
        return self.prefer.get("count") in ("exact", "planned", "estimated")

    def window(self) -> tuple[int, int]:
        """Return offset and limit from the query or the Range header, at most MAX_ROWS."""
        offset, limit = _number(self.param("offset"), 0), _number(self.param("limit"), MAX_ROWS)
        header = re.fullmatch(r"(\d+)-(\d*)", self.request.headers.get("range", ""))
        if header and self.param("limit") is None and self.param("offset") is None:
            offset = int(header[1])
            limit = int(header[2]) - offset + 1 if header[2] else MAX_ROWS
            if limit < 0:
                raise ApiError(416, "PGRST103", "Requested range not satisfiable")
        return offset, min(limit, MAX_ROWS)

    async def json_body(self) -> tuple[str, object]:
        """Return the body as text, for Postgres, and parsed, for its keys."""
        raw = await self.request.body()
        try:
            text = raw.decode() or "{}"
            return text, json.loads(text)
        except ValueError as error:
            raise ApiError(400, "PGRST102", "Empty or invalid json") from error

    def check_affected(self, rows: int) -> None:
        """Refuse a write to more rows than the client allows."""
        limit = self.prefer.get("max-affected")
        if limit is None or self.prefer.get("handling") != "strict":
            return
        if rows > int(limit):
            raise ApiError(
                400,
                "PGRST124",
                "Query result exceeds max-affected preference constraint",
                details=f"The query affects {rows} rows",
            )

    def check_single(self, rows: int) -> None:
        """Refuse an answer that is not one row if the client asked for one object."""
        if self.wants_object and rows != 1:
            raise ApiError(
                406,
                "PGRST116",
                "Cannot coerce the result to a single JSON object",
                details=f"The result contains {rows} rows",
            )

    def read_response(self, result: Result) -> Response:
        """Return the answer to a read: 200; 206 if there are more rows; 416 beyond the end."""
        self.check_single(result.rows)
        total = result.total
        if total is not None and result.offset > total:
            words = f"An offset of {result.offset} was requested, but there are only {total} rows."
            raise ApiError(416, "PGRST103", "Requested range not satisfiable", details=words)
        headers = {"Content-Range": content_range(result)}
        status = 206 if total is not None and 0 < result.rows < total else 200
        return self._rows_response(result, status, headers)

    def write_response(self, result: Result, *, created: bool) -> Response:
        """Return the answer to a write, with rows only if the client asked for them."""
        applied = ", ".join(f"{key}={value}" for key, value in self.prefer.items() if value)
        headers = {"Content-Range": "*/*" if result.total is None else f"*/{result.total}"}
        if applied:
            headers["Preference-Applied"] = applied
        if not self.returns_rows:
            return Response(status_code=201 if created else 204, headers=headers)
        return self._rows_response(result, 201 if created else 200, headers)

    def _rows_response(self, result: Result, status: int, headers: dict[str, str]) -> Response:
        if self.wants_object:
            body, kind = result.body[1:-1], f"{OBJECT}; charset=utf-8"
        else:
            body, kind = result.body, JSON
        content = b"" if self.method == "HEAD" else body.encode()
        return Response(content, status_code=status, headers={**headers, "Content-Type": kind})


def content_range(result: Result) -> str:
    """Return PostgREST's Content-Range of a read."""
    total = "*" if result.total is None else str(result.total)
    if result.rows == 0:
        return f"*/{total}"
    return f"{result.offset}-{result.offset + result.rows - 1}/{total}"


async def set_response_hints(connection: Connection, response: Response) -> Response:
    """Let the database set status and headers, as PostgREST's `response.*` settings do."""
    cursor = await connection.execute(
        "select current_setting('response.status', true), current_setting('response.headers', true)"
    )
    status, headers = (await cursor.fetchone()) or (None, None)
    if status:
        response.status_code = int(status)
    for entry in json.loads(headers) if headers else ():
        for name, value in entry.items():
            response.headers[name] = value
    return response


def _preferences(headers: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in ",".join(headers).split(","):
        name, _, value = item.strip().partition("=")
        if name and name not in found:
            found[name] = value
    return found


def _number(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdigit():
        raise ApiError(400, "PGRST100", f'"failed to parse number ({text})"')
    return int(text)
