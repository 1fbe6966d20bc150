"""The probe run: renders the cheapest possible video on the endpoint and checks its frames."""

from __future__ import annotations

import asyncio
import io
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import httpx
from PIL import Image, ImageDraw

from worker.doctor.context import Context
from worker.doctor.local import sound
from worker.doctor.result import Result, fail, ok
from worker.doctor.video import judge_video
from worker.jobs.errors import (
    CODES,
    JobFailed,
    RunGone,
    SubmissionUnknown,
    TransientError,
    WorkerError,
)
from worker.jobs.failures import classify_failure
from worker.jobs.run import RunState, RunUpdate
from worker.media.fetch import Fetcher
from worker.media.inputs import InputMedia
from worker.media.storage import ObjectName, StorageApi
from worker.plan.options import RequestedOptions
from worker.plan.plan import Plan, make_plan
from worker.policies import input_policy, read_template
from worker.runpod.api import RunPodApi
from worker.workflow.request import build_body

NAME = "runpod.probe"
FRAMES, WIDTH, HEIGHT, STEPS = 81, 832, 480, 4
_LARGEST_VIDEO = 200 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions:
    """`image` and `audio` are URLs that replace the generated media; the rest is in seconds."""

    image: str | None = None
    audio: str | None = None
    patience: float = 2400.0
    poll: float = 5.0


def expected_gpu_seconds(seconds_per_window: float) -> float:
    """Return the seconds the probe run needs on a warm GPU: one small window with few steps."""
    return seconds_per_window * WIDTH * HEIGHT * STEPS / (1280 * 720 * 4)


async def probe(context: Context, options: ProbeOptions, say: Callable[[str], None]) -> Result:
    """Submit the run, wait for its end, check its video; `say` gets each new phase."""
    try:
        async with _media(context, options) as (image, audio):
            return await _render(context, options, image, audio, say)
    except JobFailed as error:
        fix = CODES[error.code].advice if error.code in CODES else "Give --image and --audio."
        return fail(NAME, error.message, fix)
    except SubmissionUnknown as error:
        return fail(NAME, error.message, "Check RunPod's console before you try again.")
    except WorkerError as error:
        return fail(NAME, error.message, "Fix the other checks first.")


@asynccontextmanager
async def _media(context: Context, options: ProbeOptions) -> AsyncIterator[tuple[str, str]]:
    """Yield the two URLs; generated media are uploaded, and deleted afterwards."""
    if options.image and options.audio:
        yield options.image, options.audio
        return
    bucket = _bucket(context)
    if bucket is None:
        raise JobFailed(
            "input_forbidden",
            "The probe run needs media: give --image and --audio with https:// URLs, or set "
            "INPUT_BUCKETS, so that generated media can be uploaded.",
        )
    storage = _storage(context)
    folder = f"doctor/{uuid.uuid4()}"
    made = {
        f"{folder}/face.png": (_face(), "image/png"),
        f"{folder}/voice.wav": (sound(3.4), "audio/wav"),
    }
    try:
        for path, (data, kind) in made.items():
            await storage.upload(ObjectName(bucket=bucket, path=path), data, content_type=kind)
        image, audio = (f"storage://{bucket}/{path}" for path in made)
        yield options.image or image, options.audio or audio
    finally:
        await storage.delete(bucket, list(made))


async def _render(
    context: Context,
    options: ProbeOptions,
    image: str,
    audio: str,
    say: Callable[[str], None],
) -> Result:
    settings = context.settings
    job_id = str(uuid.uuid4())
    template = await asyncio.to_thread(read_template, settings)
    policy = replace(settings.plan_policy, max_frames=FRAMES, overlong_audio="trim")
    desk = _desk(context)
    try:
        async with desk.open(image_url=image, audio_url=audio, user_id=None) as opened:
            plan = make_plan(
                options=RequestedOptions(width=WIDTH, height=HEIGHT, quality="sd", steps=STEPS),
                audio=opened.audio,
                image=opened.image,
                advance=template.advance,
                policy=policy,
                seed=lambda: 1,
            )
            inputs = await desk.publish(
                opened, plan, job_id=job_id, attempt=1, ttl_seconds=plan.ttl_seconds
            )
        body = build_body(
            template, plan, job_id=job_id, image_url=inputs.image_url, audio_url=inputs.audio_url
        )
        try:
            update = await _run(context, options, body, say)
            return await _judge(context, plan, update)
        finally:
            await desk.discard(inputs.objects)
    finally:
        desk.close()


async def _run(
    context: Context, options: ProbeOptions, body: dict[str, object], say: Callable[[str], None]
) -> RunUpdate | None:
    """Return the ended run; None if it did not end in time and was cancelled."""
    async with RunPodApi(
        endpoint_url=context.settings.runpod_endpoint_url,
        api_key=context.settings.runpod_api_key.get_secret_value(),
    ) as api:
        run_id = (await api.submit(body)).run_id
        say(f"submitted as {run_id}")
        ended = False
        try:
            async with asyncio.timeout(options.patience):
                update = await _follow(api, run_id, options.poll, say)
            ended = True
            return update
        except TimeoutError:
            return None
        finally:
            if not ended:
                # Otherwise it would keep costing money without a reader.
                await api.cancel(run_id)


async def _follow(
    api: RunPodApi, run_id: str, poll: float, say: Callable[[str], None]
) -> RunUpdate:
    last = ""
    while True:
        await asyncio.sleep(poll)
        try:
            update = await api.status(run_id)
        except RunGone:
            return RunUpdate(run_id=run_id, state=RunState.UNKNOWN)
        except TransientError:
            continue
        if update.state.terminal:
            return update
        if last != (last := update.phase or update.state.value):
            say(last)


async def _judge(context: Context, plan: Plan, update: RunUpdate | None) -> Result:
    if update is None:
        return fail(
            NAME,
            "The run did not end in time and was cancelled.",
            "Check runpod.workers and the worker's log in RunPod's console.",
        )
    if update.state is RunState.UNKNOWN:
        return fail(
            NAME,
            "RunPod lost the run.",
            "Try again. If it happens twice, contact RunPod's support.",
        )
    if update.state is not RunState.COMPLETED:
        failure = classify_failure(update)
        fix = CODES[failure.code].advice if failure.code in CODES else "See the worker's log."
        return fail(NAME, f"{failure.code}: {failure.message}", fix)
    if update.video_url is None:
        return fail(NAME, "The run completed without a video.", CODES["result_missing"].advice)
    with tempfile.TemporaryFile() as file:
        size = 0
        try:
            async with context.http.stream(
                "GET", update.video_url, follow_redirects=True
            ) as response:
                response.raise_for_status()
                async for chunk in response.aiter_bytes():
                    size += len(chunk)
                    if size > _LARGEST_VIDEO:
                        break
                    file.write(chunk)
        except httpx.HTTPError as error:
            reason = (
                f"HTTP {error.response.status_code}"
                if isinstance(error, httpx.HTTPStatusError)
                else type(error).__name__
            )
            return fail(
                NAME,
                f"The video cannot be downloaded ({reason}).",
                "Check the result bucket's public URL in the endpoint's environment variables.",
            )
        file.seek(0)
        problem = await asyncio.to_thread(judge_video, file, FRAMES, WIDTH, HEIGHT)
    if problem:
        return fail(NAME, problem, "Compare the endpoint's ComfyUI and nodes with docs/guide.md.")
    return ok(NAME, f"Received an {FRAMES}-frame video. {_bill(context, update)}")


def _bill(context: Context, update: RunUpdate) -> str:
    seconds = (update.execution_ms or 0) / 1000
    text = f"It waited {(update.delay_ms or 0) / 1000:.0f} s and used {seconds:.0f} GPU seconds"
    price = context.settings.gpu_price_per_second
    return f"{text} (${float(price) * seconds:.3f})." if price else f"{text}."


def _bucket(context: Context) -> str | None:
    settings = context.settings
    return settings.input_buckets[0] if settings.input_buckets else settings.media_bucket or None


def _storage(context: Context) -> StorageApi:
    settings = context.settings
    key = settings.supabase_service_role_key.get_secret_value()
    return StorageApi(url=settings.supabase_url, key=key, client=context.http)


def _desk(context: Context) -> InputMedia:
    settings = context.settings
    buckets = {*settings.input_buckets, *([settings.media_bucket] if settings.media_bucket else [])}
    return InputMedia(
        policy=replace(input_policy(settings), input_buckets=frozenset(buckets)),
        fetcher=Fetcher(allow_private_hosts=settings.input_allow_private_hosts),
        storage=_storage(context),
    )


def _face() -> bytes:
    """Return a PNG with a drawn face: the model needs one to animate."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (120, 140, 160))
    draw = ImageDraw.Draw(image)
    draw.ellipse((296, 40, 536, 400), fill=(225, 185, 155))
    for x in (362, 470):
        draw.ellipse((x - 18, 165, x + 18, 185), fill=(60, 40, 30))
    draw.polygon(((416, 200), (402, 260), (430, 260)), fill=(205, 160, 135))
    draw.ellipse((376, 305, 456, 330), fill=(170, 70, 75))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
