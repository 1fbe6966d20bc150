"""`frames`, `plan` and `request`: show what a job would become; need no account."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from secrets import randbelow
from typing import Annotated
from uuid import UUID

import typer
from rich.text import Text

from worker.commands.output import (
    JsonOption,
    exact_seconds,
    local_file,
    print_json,
    print_lines,
    refusals,
)
from worker.jobs.errors import JobFailed
from worker.media.decoders import Decoders
from worker.media.fetch import Fetcher
from worker.media.inputs import InputMedia
from worker.plan.frames import in_seconds, plan_frames
from worker.plan.media_facts import AudioFacts, ImageFacts
from worker.plan.options import MAX_SEED, RequestedOptions
from worker.plan.plan import Plan, make_plan, rounded
from worker.policies import decoder_limits, input_policy, read_template
from worker.settings import Settings, load_planning_settings
from worker.workflow.request import build_body

NIL_JOB = str(UUID(int=0))
_URL_STARTS = ("http://", "https://")

Width = Annotated[
    int | None, typer.Option(help="Even, 480 to 1920; default: by quality and image.")
]
Height = Annotated[
    int | None, typer.Option(help="Even, 480 to 1920; default: by quality and image.")
]
Quality = Annotated[str | None, typer.Option(help="sd, hd or fullhd (default hd).")]
Seed = Annotated[int | None, typer.Option(help="1 to 999999; 0 or none: random.")]
Steps = Annotated[int | None, typer.Option(help="4 to 6; default: by quality.")]
Prompt = Annotated[str | None, typer.Option(help="What the video shows.")]
NegativePrompt = Annotated[str | None, typer.Option(help="What it should not show.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("frames")(frames)
    app.command("plan")(plan)
    app.command("request")(request)


def frames(
    seconds: Annotated[str, typer.Argument(metavar="SECONDS", help="The audio's length.")],
    json: JsonOption = False,
) -> None:
    """Print how many frames an audio of SECONDS becomes."""
    length = exact_seconds(seconds)
    with refusals(json):
        settings = load_planning_settings()
        chosen = plan_frames(
            length, policy=settings.plan_policy, advance=read_template(settings).advance
        )
    if json:
        print_json(
            {
                "frames": chosen.frames,
                "windows": chosen.windows,
                "sampled_windows": chosen.sampled_windows,
                "video_duration": rounded(chosen.video_duration),
                "seconds_cut": rounded(chosen.seconds_cut),
                "seconds_padded": rounded(chosen.seconds_padded),
                "audio_duration": rounded(chosen.audio_duration),
            }
        )
        return
    typer.echo(
        f"{in_seconds(chosen.audio_duration)} s of audio become {chosen.frames} frames "
        f"({in_seconds(chosen.video_duration)} s): {chosen.windows} windows by the guide's count, "
        f"{chosen.sampled_windows} rendered; {in_seconds(chosen.seconds_cut)} s are cut."
    )


def plan(
    audio: Annotated[str, typer.Argument(metavar="AUDIO", help="A file or a URL.")],
    image: Annotated[str | None, typer.Option(help="A file or a URL.")] = None,
    width: Width = None,
    height: Height = None,
    quality: Quality = None,
    seed: Seed = None,
    steps: Steps = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    json: JsonOption = False,
) -> None:
    """Decode AUDIO (and the image) and print frames, size, time and cost of such a job."""
    options = RequestedOptions(
        width=width,
        height=height,
        quality=quality,
        seed=seed,
        steps=steps,
        prompt=prompt,
        negative_prompt=negative_prompt,
    )
    with refusals(json):
        settings = load_planning_settings()
        sound, picture = asyncio.run(_probe(settings, audio, image))
        made = make_plan(
            options=options,
            audio=sound,
            image=picture,
            advance=read_template(settings).advance,
            policy=settings.plan_policy,
            seed=draw_seed,
        )
    if json:
        print_json(made.as_json())
    else:
        _print_plan(made, sound, picture)


def request(
    image_url: Annotated[str, typer.Option(help="URL of the portrait.")],
    audio_url: Annotated[str, typer.Option(help="URL of the audio.")],
    audio_seconds: Annotated[str, typer.Option(help="Exact length of the audio.")],
    width: Width = None,
    height: Height = None,
    quality: Quality = None,
    seed: Seed = None,
    steps: Steps = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    json: JsonOption = False,
) -> None:
    """Print the body of POST /run for such a job; downloads and sends nothing."""
    options = RequestedOptions(
        width=width,
        height=height,
        quality=quality,
        seed=seed,
        steps=steps,
        prompt=prompt,
        negative_prompt=negative_prompt,
    )
    length = exact_seconds(audio_seconds)
    with refusals(json):
        settings = load_planning_settings()
        template = read_template(settings)
        made = make_plan(
            options=options,
            audio=AudioFacts(seconds=length, sample_rate=0, channels=0, codec=""),
            image=None,
            advance=template.advance,
            policy=settings.plan_policy,
            seed=draw_seed,
        )
        body = build_body(
            template,
            made,
            job_id=NIL_JOB,
            image_url=_checked_url(image_url, "image"),
            audio_url=_checked_url(audio_url, "audio"),
        )
    print_json(body)


def draw_seed() -> int:
    """Draw a seed from 1 to 999999."""
    return randbelow(MAX_SEED) + 1


async def _probe(
    settings: Settings, audio: str, image: str | None
) -> tuple[AudioFacts, ImageFacts | None]:
    for given in (audio, image or ""):
        if given.lower().startswith("storage://"):
            raise JobFailed(
                "input_forbidden",
                f"`plan` cannot read {given} from a bucket: give a local file or an https:// URL.",
            )
    decoders = Decoders(decoder_limits(settings))
    desk = InputMedia(
        policy=replace(input_policy(settings), media_bucket=None),
        fetcher=Fetcher(allow_private_hosts=settings.input_allow_private_hosts),
        decoders=decoders,
    )
    try:
        if audio.lower().startswith(_URL_STARTS):
            sound = await desk.probe_audio(audio)
        else:
            with _file(audio, "audio", settings.max_audio_bytes).open("rb") as file:
                sound = await decoders.probe_audio(file)
        if image is None:
            return sound, None
        if image.lower().startswith(_URL_STARTS):
            return sound, await desk.probe_image(image)
        with _file(image, "image", settings.max_image_bytes).open("rb") as file:
            most = settings.max_image_pixels
            return sound, await decoders.probe_image(file, max_pixels=most)
    finally:
        desk.close()


def _file(name: str, kind: str, limit: int) -> Path:
    path = local_file(name)
    if path.stat().st_size >= limit:
        raise JobFailed(f"{kind}_too_large", f"The {kind} must have less than {limit} bytes.")
    return path


def _checked_url(url: str, kind: str) -> str:
    if not url.startswith(_URL_STARTS):
        raise JobFailed(
            f"{kind}_unreachable", f"The {kind}'s URL must begin with https:// or http://."
        )
    return url


def _print_plan(made: Plan, audio: AudioFacts, image: ImageFacts | None) -> None:
    lines = [
        Text.assemble((f"{name:<9}", "bold"), text) for name, text in _lines(made, audio, image)
    ]
    for warning in made.warnings:
        lines.append(Text(f"warning  {warning.code}: {warning.message}", style="yellow"))
    print_lines(lines)


def _lines(made: Plan, audio: AudioFacts, image: ImageFacts | None) -> list[tuple[str, str]]:
    cost = made.estimated_cost_usd
    changed = (
        f"{in_seconds(made.seconds_padded)} s of silence are added"
        if made.seconds_padded
        else f"{in_seconds(made.seconds_cut)} s are cut"
    )
    lines = [
        (
            "Audio",
            f"{in_seconds(audio.seconds)} s ({audio.codec}, {audio.sample_rate} Hz, "
            f"{audio.channels} channel{'s' if audio.channels != 1 else ''})",
        )
    ]
    if image is not None:
        lines.append(("Image", f"{image.width}x{image.height} ({image.format})"))
    return [
        *lines,
        ("Video", f"{in_seconds(made.video_duration)} s, {made.frames} frames; {changed}"),
        ("Windows", f"{made.windows} by the guide's count, {made.sampled_windows} rendered"),
        ("Size", f"{made.width}x{made.height}"),
        ("Quality", f"{made.quality}: {made.model}, {made.lora}, {made.steps} steps"),
        ("Seed", str(made.seed)),
        (
            "Time",
            f"about {_minutes(made.expected_seconds)} on the GPU, "
            f"stopped after {_minutes(made.execution_timeout_seconds)}",
        ),
        ("Cost", f"about ${cost}" if cost is not None else "unknown: set GPU_PRICE_PER_SECOND"),
        ("Inputs", "fitted to the plan" if made.prepared else "passed on unchanged"),
    ]


def _minutes(seconds: int) -> str:
    return f"{seconds} s" if seconds < 90 else f"{round(seconds / 60)} min"
