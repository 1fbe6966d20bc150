"""`submit`: inserts a job and waits for its end."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

from worker.commands.output import JsonOption, local_file, print_json, print_lines, refusals
from worker.commands.refused import ONE_ROW_PER_KEY, readable
from worker.commands.table import ENDED, Follower, opened
from worker.jobs.errors import JobFailed, StoreRefused, StoreUnavailable
from worker.media.storage import ObjectName, StorageApi
from worker.settings import Settings, load_table_settings
from worker.supabase.jobs_table import JobsTable

POLL_SECONDS = 1.0
OUTAGE_SECONDS = 60.0
INTERRUPTED = 130
TYPES = {
    ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp",
    ".heic": "image/heic", ".avif": "image/avif", ".mp3": "audio/mpeg", ".wav": "audio/wav",
    ".m4a": "audio/mp4", ".ogg": "audio/ogg", ".opus": "audio/ogg", ".flac": "audio/flac",
    ".webm": "audio/webm", ".aac": "audio/aac",
}  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("submit")(submit)


def submit(
    image: Annotated[str, typer.Option(help="A file, or an https:// or storage:// URL.")],
    audio: Annotated[str, typer.Option(help="A file, or an https:// or storage:// URL.")],
    width: Annotated[int | None, typer.Option(help="Even, 480 to 1920.")] = None,
    height: Annotated[int | None, typer.Option(help="Even, 480 to 1920.")] = None,
    quality: Annotated[str | None, typer.Option(help="sd, hd or fullhd.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What the video shows.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What it should not show.")] = None,
    seed: Annotated[int | None, typer.Option(help="0 to 999999.")] = None,
    steps: Annotated[int | None, typer.Option(help="4 to 6.")] = None,
    user_id: Annotated[uuid.UUID | None, typer.Option(help="Owner of the job.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="If this user used it before, follow that job.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Wait until the job has ended.")] = True,
    json: JsonOption = False,
) -> None:
    """Insert a job into video_jobs and wait for it; exit 0 if there is a video."""
    options = {
        "width": width,
        "height": height,
        "quality": quality,
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "steps": steps,
        "user_id": str(user_id) if user_id else None,
        "idempotency_key": idempotency_key,
    }
    with refusals(json):
        settings = load_table_settings()
        values = {name: value for name, value in options.items() if value is not None}
        try:
            row = asyncio.run(_submit(settings, values, image, audio, follow=follow, quiet=json))
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
    if json:
        print_json(row)
    else:
        print_lines(_ending(row))
    raise typer.Exit(0 if row["status"] == "completed" or not follow else 1)


async def _submit(
    settings: Settings,
    values: dict[str, Any],
    image: str,
    audio: str,
    *,
    follow: bool,
    quiet: bool,
) -> dict[str, Any]:
    async with opened(settings) as (table, storage):
        row = await _known(table, values)
        if row is None:
            values |= await _upload(settings, storage, values, {"image": image, "audio": audio})
            row, known = await _insert(table, values)
        else:
            known = True
        if not quiet:
            print_lines([f"job     {row['id']}"])
            if known:
                typer.echo("This user has already used this key: no new job was created.", err=True)
        if not follow:
            return row
        try:
            return await _followed(table, row, quiet=quiet)
        except asyncio.CancelledError:
            command = f"`python -m worker jobs cancel {row['id']}`"
            typer.echo(f"The job keeps running; cancel it with {command}.", err=True)
            raise


async def _known(table: JobsTable, values: Mapping[str, Any]) -> dict[str, Any] | None:
    key = values.get("idempotency_key")
    return await table.by_key(values.get("user_id"), key) if key else None


async def _insert(table: JobsTable, values: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the row, and whether another call has already inserted it with the same key."""
    try:
        return await table.insert(values), False
    except StoreRefused as error:
        row = await _known(table, values) if ONE_ROW_PER_KEY in error.message else None
        if row is None:
            raise readable(error, values) from error
        return row, True


async def _followed(table: JobsTable, row: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Return the row at its end; wait through a short outage of Supabase."""
    down_since: float | None = None
    with Follower(Console(stderr=True, quiet=quiet)) as follower:
        while row["status"] not in ENDED:
            follower.show(row)
            await asyncio.sleep(POLL_SECONDS)
            try:
                row = await table.get(row["id"]) or {**row, "status": "cancelled", "phase": "done"}
                down_since = None
            except StoreUnavailable as error:
                down_since = down_since or time.monotonic()
                if time.monotonic() - down_since > OUTAGE_SECONDS:
                    raise StoreUnavailable(
                        f"{error.message} The job keeps running; see "
                        f"`python -m worker jobs show {row['id']}`."
                    ) from error
        follower.show(row)
    return row


async def _upload(
    settings: Settings, storage: StorageApi, values: Mapping[str, Any], given: Mapping[str, str]
) -> dict[str, str]:
    """Return both URL columns; upload nothing before both files are found."""
    files = {kind: local_file(text) for kind, text in given.items() if not _is_url(text)}
    buckets = _buckets(settings, files)
    folder = f"{values.get('user_id', 'command-line')}/{uuid.uuid4()}"
    found = {f"{kind}_url": text for kind, text in given.items()}
    for kind, path in files.items():
        suffix = path.suffix.lower()
        name = ObjectName(bucket=buckets[kind], path=f"{folder}/{kind}{suffix}")
        data = await asyncio.to_thread(path.read_bytes)
        await storage.upload(name, data, content_type=TYPES.get(suffix, "application/octet-stream"))
        found[f"{kind}_url"] = f"storage://{name}"
    return found


def _buckets(settings: Settings, kinds: Iterable[str]) -> dict[str, str]:
    found = {"image": settings.upload_bucket("image"), "audio": settings.upload_bucket("audio")}
    buckets = {kind: bucket for kind in kinds if (bucket := found[kind])}
    if buckets.keys() != set(kinds):
        raise JobFailed(
            "input_forbidden",
            "A file needs a bucket for the upload: name one in INPUT_BUCKETS (here and for the "
            "worker), or give an https:// URL.",
        )
    return buckets


def _is_url(given: str) -> bool:
    return given.lower().startswith(("https://", "http://", "storage://"))


def _ending(row: Mapping[str, Any]) -> list[str]:
    lines = [f"status  {row['status']}"]
    if row.get("video_url"):
        lines.append(f"video   {row['video_url']}")
    if row.get("error_code"):
        lines.append(f"error   {row['error_code']}: {row['error_message']}")
    for warning in row.get("warnings") or []:
        lines.append(f"warning {warning['code']}: {warning['message']}")
    return lines
