"""`submit`: inserts a job and follows it to its end."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
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

LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
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
    image: Annotated[str, typer.Option(help="A file, or an https:// or storage:// address.")],
    audio: Annotated[str, typer.Option(help="A file, or an https:// or storage:// address.")],
    width: Annotated[int | None, typer.Option(help="Even, 480 to 1920.")] = None,
    height: Annotated[int | None, typer.Option(help="Even, 480 to 1920.")] = None,
    quality: Annotated[str | None, typer.Option(help="sd, hd or fullhd.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What the picture shows.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What it should not show.")] = None,
    seed: Annotated[int | None, typer.Option(help="0 to 999999.")] = None,
    steps: Annotated[int | None, typer.Option(help="4 to 6.")] = None,
    user_id: Annotated[uuid.UUID | None, typer.Option(help="Whose job it is.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Used again by the same user, its job is followed.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Stay until the job has ended.")] = True,
    json: JsonOption = False,
) -> None:
    """Insert a job into video_jobs and follow it; exit code 0 when the video is there."""
    wishes = {
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
        values = {name: value for name, value in wishes.items() if value is not None}
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
            values |= await _addresses(settings, storage, values, {"image": image, "audio": audio})
            row, known = await _insert(table, values)
        else:
            known = True
        if not quiet:
            print_lines([f"job     {row['id']}"])
            if known:
                typer.echo("This user has used this key before: no new job was made.", err=True)
        if not follow:
            return row
        try:
            return await _followed(table, row, quiet=quiet)
        except asyncio.CancelledError:
            command = f"`python -m worker jobs cancel {row['id']}`"
            typer.echo(f"The job goes on without you; {command} ends it.", err=True)
            raise


async def _known(table: JobsTable, values: Mapping[str, Any]) -> dict[str, Any] | None:
    key = values.get("idempotency_key")
    return await table.by_key(values.get("user_id"), key) if key else None


async def _insert(table: JobsTable, values: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The new row, or the one that another call has just made with the same key, and which."""
    try:
        return await table.insert(values), False
    except StoreRefused as error:
        row = await _known(table, values) if ONE_ROW_PER_KEY in error.message else None
        if row is None:
            raise readable(error, values) from error
        return row, True


async def _followed(table: JobsTable, row: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """The row at its end; an outage of Supabase is waited out for a while."""
    away_since: float | None = None
    with Follower(Console(stderr=True, quiet=quiet)) as follower:
        while row["status"] not in ENDED:
            follower.show(row)
            await asyncio.sleep(LOOK_SECONDS)
            try:
                row = await table.get(row["id"]) or {**row, "status": "cancelled", "phase": "done"}
                away_since = None
            except StoreUnavailable as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > PATIENCE_SECONDS:
                    raise StoreUnavailable(
                        f"{error.message} The job goes on; "
                        f"`python -m worker jobs show {row['id']}` looks at it."
                    ) from error
        follower.show(row)
    return row


async def _addresses(
    settings: Settings, storage: StorageApi, values: Mapping[str, Any], given: Mapping[str, str]
) -> dict[str, str]:
    """Both columns; nothing is uploaded before both files have been found."""
    files = {kind: local_file(one) for kind, one in given.items() if not _is_address(one)}
    if files and not settings.input_buckets:
        raise JobFailed(
            "input_forbidden",
            "A file needs a bucket to be uploaded to: set INPUT_BUCKETS (here and for the worker), "
            "or give an https:// address.",
        )
    folder = f"{values.get('user_id', 'command-line')}/{uuid.uuid4()}"
    found = {f"{kind}_url": one for kind, one in given.items()}
    for kind, path in files.items():
        suffix = path.suffix.lower()
        name = ObjectName(bucket=settings.input_buckets[0], path=f"{folder}/{kind}{suffix}")
        data = await asyncio.to_thread(path.read_bytes)
        await storage.upload(name, data, content_type=TYPES.get(suffix, "application/octet-stream"))
        found[f"{kind}_url"] = f"storage://{name}"
    return found


def _is_address(given: str) -> bool:
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
