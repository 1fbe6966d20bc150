"""Does what a browser does: sign in anonymously, upload, insert a job, read it; then cleans up."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from worker.doctor.buckets import PIXEL
from worker.doctor.context import CannotCheck, Context, error_of
from worker.doctor.local import sound
from worker.doctor.result import Result, fail, ok, warn

NAME = "browser"


class _Refused(Exception):
    """A step was refused, with its result."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.message)
        self.result = result


@dataclass(slots=True)
class _Made:
    """What was made so far, to be removed afterwards."""

    user_id: str | None = None
    job_id: str | None = None
    objects: list[tuple[str, str]] = field(default_factory=list)


async def check_browser(context: Context) -> Result:
    """Check sign-in, uploads and an insert with the browser's key; remove all of it afterwards.

    The row is inserted as cancelled, so that no worker takes it.
    """
    key = context.settings.supabase_anon_key
    if not key:
        return warn(
            NAME,
            "Not checked: SUPABASE_ANON_KEY is unset.",
            "Set it to the publishable key (sb_publishable_…) or the anon key of this project.",
        )
    if not await _anonymous(context, key):
        return warn(
            NAME,
            "Not checked: this project permits no anonymous sign-ins, so there is no user to try "
            "uploads and inserts with.",
            "Nothing to do if your users sign in otherwise; try an upload in your app once.",
        )
    made = _Made()
    try:
        result = await _steps(context, key, made)
    except _Refused as refused:
        result = refused.result
    left = await _remove(context, made)
    if left and result.level == "ok":
        return warn(NAME, f"{result.message} Not removed: {', '.join(left)}.", "Remove it by hand.")
    return result


async def _anonymous(context: Context, key: str) -> bool:
    answer = await _as(context, key, "GET", "/auth/v1/settings")
    if answer.status_code in (401, 403):
        raise CannotCheck(
            f"Supabase refuses SUPABASE_ANON_KEY: {_said(answer)}.",
            "Copy the publishable key or the anon key of this project from Settings > API Keys.",
        )
    if answer.status_code != 200:
        raise CannotCheck(f"Supabase Auth does not work: {_said(answer)}.", "Read its logs.")
    external = answer.json().get("external")
    return isinstance(external, dict) and bool(external.get("anonymous_users"))


async def _steps(context: Context, key: str, made: _Made) -> Result:
    session = await _as(context, key, "POST", "/auth/v1/signup", json={})
    if session.status_code != 200 or not session.json().get("access_token"):
        raise _refusal("Anonymous sign-in is refused", session, "Read Auth's logs: rate limits?")
    token, user = session.json()["access_token"], str(session.json()["user"]["id"])
    made.user_id = user
    for bucket in context.settings.input_buckets:
        await _upload(context, key, token, bucket, made)
    files = [f"storage://{bucket}/{path}" for bucket, path in made.objects]
    job_id = str(uuid.uuid4())
    row = {
        "id": job_id,
        "image_url": files[0] if files else "https://example.com/doctor.jpg",
        "audio_url": files[-1] if files else "https://example.com/doctor.mp3",
        "cancel_requested": True,
        "metadata": {"doctor": True},
    }
    table = "/rest/v1/video_jobs"
    inserted = await _as(context, key, "POST", table, token, json=row)
    if inserted.status_code != 201:
        advice = "Fix supabase.grants, supabase.rls and supabase.constraints first."
        raise _refusal("A signed-in user's insert is refused", inserted, advice)
    made.job_id = job_id
    own = await _as(context, key, "GET", f"{table}?id=eq.{job_id}&select=user_id,status", token)
    if own.status_code != 200 or own.json() != [{"user_id": user, "status": "cancelled"}]:
        raise _refusal("The user cannot read the row", own, "Fix supabase.rls first.")
    strangers = await _as(context, key, "GET", f"{table}?id=eq.{job_id}&select=id")
    if strangers.status_code == 200 and strangers.json():
        text = "Without a session anyone can read the row."
        raise _Refused(fail(NAME, text, "Fix supabase.grants and supabase.rls first."))
    uploads = f"uploaded to {' and '.join(context.settings.input_buckets)}, " if files else ""
    untried = "" if files else " Uploads were not tried: INPUT_BUCKETS is unset."
    return ok(NAME, f"An anonymous user signed in, {uploads}inserted a row and read it.{untried}")


async def _upload(context: Context, key: str, token: str, bucket: str, made: _Made) -> None:
    """Upload a tiny image, or a sound where the bucket takes no images, into the user's folder."""
    about = await context.supabase("GET", f"/storage/v1/bucket/{quote(bucket, safe='')}")
    types = about.json().get("allowed_mime_types") if about.status_code == 200 else None
    takes_images = not types or any(kind in ("*/*", "image/*", "image/png") for kind in types)
    data, kind, name = (
        (PIXEL, "image/png", "pixel.png") if takes_images else (sound(0.1), "audio/wav", "s.wav")
    )
    path = f"{made.user_id}/doctor-{uuid.uuid4()}/{name}"
    url = f"/storage/v1/object/{quote(bucket, safe='')}/{path}"
    headers = {"Content-Type": kind}
    answer = await _as(context, key, "POST", url, token, content=data, headers=headers)
    if answer.status_code != 200:
        advice = "Fix storage.policies first; apps may use other buckets only with such policies."
        raise _refusal(f"A signed-in user's upload to {bucket} is refused", answer, advice)
    made.objects.append((bucket, path))


async def _remove(context: Context, made: _Made) -> list[str]:
    """Remove the row, the objects and the user with the service key; return what is left."""
    left: list[str] = []

    async def gone(what: str, method: str, path: str, **more: Any) -> None:
        try:
            answer = await context.supabase(method, path, **more)
        except CannotCheck:
            left.append(what)
        else:
            left.extend([what] if answer.is_error else [])

    if made.job_id is not None:
        path = f"/rest/v1/video_jobs?id=eq.{made.job_id}"
        await gone(f"row {made.job_id}", "DELETE", path)
    for bucket, name in made.objects:
        path = f"/storage/v1/object/{quote(bucket, safe='')}"
        await gone(f"object {bucket}/{name}", "DELETE", path, json={"prefixes": [name]})
    if made.user_id is not None:
        path = f"/auth/v1/admin/users/{made.user_id}"
        await gone(f"user {made.user_id}", "DELETE", path)
    return left


async def _as(
    context: Context,
    key: str,
    method: str,
    path: str,
    token: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> httpx.Response:
    """Send a request as a browser does: with its key, and with the user's token if there is one."""
    bearer = token or key
    own = {"apikey": key, "Authorization": f"Bearer {bearer}", **(headers or {})}
    return await context.supabase(method, path, headers=own, **more)


def _said(answer: httpx.Response) -> str:
    return error_of(answer)[1] or f"HTTP {answer.status_code}"


def _refusal(what: str, answer: httpx.Response, advice: str) -> _Refused:
    return _Refused(fail(NAME, f"{what}: {_said(answer)}.", advice))
