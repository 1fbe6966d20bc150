"""`submit`: inserts a job and follows it to its end."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from worker.adapters.storage import ObjectName, StorageApi
from worker.commands.output import JsonOption, print_json, refusals
from worker.commands.table import ENDED, Follower, opened
from worker.core.errors import JobFailed
from worker.settings import Settings, load_table_settings

LOOK_SECONDS = 1.0
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
    user_id: Annotated[str | None, typer.Option(help="Whose job it is.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="One row per user and key.")] = None,
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
        "user_id": user_id,
        "idempotency_key": idempotency_key,
    }
    with refusals(json):
        settings = load_table_settings()
        values = {name: value for name, value in wishes.items() if value is not None}
        row = asyncio.run(_submit(settings, values, image, audio, follow=follow, quiet=json))
    if json:
        print_json(row)
    else:
        _tell(row)
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
        folder = f"{values.get('user_id', 'command-line')}/{uuid.uuid4()}"
        values["image_url"] = await _address(settings, storage, image, "image", folder)
        values["audio_url"] = await _address(settings, storage, audio, "audio", folder)
        row = await table.insert(values)
        if not follow:
            return row
        with Follower(Console(stderr=True, quiet=quiet)) as follower:
            while row["status"] not in ENDED:
                follower.show(row)
                await asyncio.sleep(LOOK_SECONDS)
                row = await table.get(row["id"]) or {**row, "status": "cancelled", "phase": "done"}
            follower.show(row)
        return row


async def _address(
    settings: Settings, storage: StorageApi, given: str, kind: str, folder: str
) -> str:
    """An address stays; a file is uploaded into the first of INPUT_BUCKETS."""
    if given.startswith(("https://", "http://", "storage://")):
        return given
    data = _read(given, kind)
    if not settings.input_buckets:
        raise JobFailed(
            "input_forbidden",
            "A file needs a bucket to be uploaded to: set INPUT_BUCKETS (here and for the worker), "
            "or give an https:// address.",
        )
    suffix = Path(given).suffix.lower()
    name = ObjectName(bucket=settings.input_buckets[0], path=f"{folder}/{kind}{suffix}")
    await storage.upload(name, data, content_type=TYPES.get(suffix, "application/octet-stream"))
    return f"storage://{name}"


def _read(given: str, kind: str) -> bytes:
    try:
        return Path(given).read_bytes()
    except OSError as error:
        raise JobFailed(f"{kind}_missing", f"{given} cannot be read: {error.strerror}.") from error


def _tell(row: dict[str, Any]) -> None:
    typer.echo(f"job     {row['id']}")
    typer.echo(f"status  {row['status']}")
    if row.get("video_url"):
        typer.echo(f"video   {row['video_url']}")
    if row.get("error_code"):
        typer.echo(f"error   {row['error_code']}: {row['error_message']}")
    for warning in row.get("warnings") or []:
        typer.echo(f"warning {warning['code']}: {warning['message']}")
