"""Error bodies of REST, and the HTTP status of each SQLSTATE."""

from __future__ import annotations

import re

import psycopg
from starlette.responses import JSONResponse, Response

# PostgREST's documented table; the longest matching prefix wins.
_STATUS_OF = {
    "08": 503, "09": 500, "0L": 403, "0P": 403, "21000": 400, "22023": 400,
    "23503": 409, "23505": 409, "25": 500, "25006": 405, "28": 403, "2D": 500,
    "38": 500, "39": 500, "3B": 500, "40": 500, "53": 503, "53400": 500, "54": 500,
    "55": 500, "57": 500, "57P01": 503, "58": 500, "F0": 500, "HV": 500,
    "P0": 500, "P0001": 400, "XX": 500, "42883": 404, "42P01": 404, "42P17": 500,
    "42501": 403,
}  # fmt: skip


class ApiError(Exception):
    """An error with PostgREST's body: code, message, details, hint."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "details": details, "hint": hint, "message": message}

    def response(self) -> Response:
        headers = {"Proxy-Status": f"PostgREST; error={self.body['code']}"}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, status_code=self.status, headers=headers)


def parse_error(what: str, details: str | None = None) -> ApiError:
    return ApiError(400, "PGRST100", what, details=details)


def from_postgres(error: psycopg.Error, *, anonymous: bool) -> ApiError:
    """Return PostgREST's answer to an error of the database."""
    code = error.sqlstate or ""
    message = error.diag.message_primary or str(error)
    if not code:
        return ApiError(
            503, "PGRST001", "Database client error. Retrying the connection.", details=message
        )
    return ApiError(
        status_of(code, anonymous=anonymous),
        code,
        message,
        details=error.diag.message_detail,
        hint=error.diag.message_hint,
    )


def status_of(code: str, *, anonymous: bool = False) -> int:
    """Return the HTTP status of a SQLSTATE."""
    if custom := re.fullmatch(r"PT(\d{3})", code):
        return int(custom[1])
    if code == "42501" and anonymous:
        return 401
    for length in (5, 2):
        if code[:length] in _STATUS_OF:
            return _STATUS_OF[code[:length]]
    return 400
