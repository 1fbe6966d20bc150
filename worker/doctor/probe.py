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

from worker.dispatch.preparer import Preparer
from worker.doctor.context import Context
from worker.doctor.local import sound
from worker.doctor.result import Result, fail, ok
from worker.doctor.video import judge_video
from worker.jobs.errors import CODES, JobFailed, SubmissionUnknown, WorkerError
from worker.jobs.job import Case, Job, JobStatus, Submission, SubmissionState
from worker.jobs.observation import SubmissionUpdate, interpret
from worker.jobs.retry import LifecyclePolicy
from worker.jobs.run import RunUpdate
from worker.media.decoders import Decoders
from worker.media.fetch import Fetcher
from worker.media.inputs import InputMedia
from worker.media.storage import ObjectName, StorageApi
from worker.policies import (
    decoder_limits,
    input_policy,
    lifecycle_policy,
    own_addresses,
    read_template,
)
from worker.reconcile.poller import Poller
from worker.reconcile.tracker import RunTracker
from worker.runpod.api import RunPodApi
from worker.runtime.clock import Environment
from worker.runtime.network import why
from worker.runtime.readiness import Readiness
from worker.workflow.request import build_body

NAME = "runpod.probe"
FRAMES, WIDTH, HEIGHT, STEPS = 81, 832, 480, 4
_LARGEST_VIDEO = 200 * 1024 * 1024
_ENVIRONMENT = Environment()


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
    bucket = context.settings.media_bucket
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
    """Prepare, submit and follow the run with the daemon's own parts."""
    settings = context.settings
    template = await asyncio.to_thread(read_template, settings)
    media = _input_media(context)
    preparer = Preparer(
        media=media,
        template=template,
        policy=replace(settings.plan_policy, max_frames=FRAMES, overlong_audio="trim"),
        readiness=Readiness(),
        own_addresses=own_addresses(settings),
        clock=_ENVIRONMENT.monotonic,
        jitter=_ENVIRONMENT.jitter,
    )
    try:
        job = _job(image, audio)
        prepared = await preparer.prepare(job)
        body = build_body(
            template,
            prepared.plan,
            job_id=job.id,
            image_url=prepared.inputs.image_url,
            audio_url=prepared.inputs.audio_url,
        )
        try:
            return await _judge(context, await _run(context, options, job.id, body, say))
        finally:
            await preparer.discard(prepared)
    finally:
        media.close()


def _job(image: str, audio: str) -> Job:
    """Return the cheapest possible job."""
    return Job(
        id=str(uuid.uuid4()), user_id=None, status=JobStatus.PREPARING, phase="checking_media",
        attempt=1, try_number=1, revision=0, image_url=image, audio_url=audio, width=WIDTH,
        height=HEIGHT, quality="sd", steps=STEPS, seed=1,
    )  # fmt: skip


async def _run(
    context: Context,
    options: ProbeOptions,
    job_id: str,
    body: dict[str, object],
    say: Callable[[str], None],
) -> SubmissionUpdate | None:
    """Return the ended run; None if it did not end in time and was cancelled."""
    settings = context.settings
    async with RunPodApi(
        endpoint_url=settings.runpod_endpoint_url,
        api_key=settings.runpod_api_key.get_secret_value(),
    ) as api:
        run_id = (await api.submit(body)).run_id
        say(f"submitted as {run_id}")
        # With no table to age these, a result without a video is not asked for again.
        sub = Submission(
            job_id=job_id, attempt=1, try_number=1, endpoint_id=api.endpoint_id, plan={},
            state=SubmissionState.QUEUED, runpod_job_id=run_id, ttl_left=options.patience,
            missing_for=0.0, incomplete_for=0.0,
        )  # fmt: skip
        policy = replace(lifecycle_policy(settings), patience=0.0)
        ended = None
        try:
            async with asyncio.timeout(options.patience):
                ended = await _follow(api, sub, policy, options.poll, say)
        except TimeoutError:
            return None
        finally:
            if ended is None:
                # Otherwise it would keep costing money without a reader.
                await api.cancel(run_id)
        return ended


async def _follow(
    api: RunPodApi,
    sub: Submission,
    policy: LifecyclePolicy,
    poll: float,
    say: Callable[[str], None],
) -> SubmissionUpdate:
    """Poll the run until it has ended."""
    tracker = RunTracker(clock=_ENVIRONMENT.monotonic)
    poller = Poller(
        runpod=api,
        tracker=tracker,
        readiness=Readiness(),
        clock=_ENVIRONMENT.monotonic,
        jitter=_ENVIRONMENT.jitter,
    )
    last = ""
    while True:
        await _ENVIRONMENT.sleep(poll)
        news = await poller.poll([Case(job_id=sub.job_id, job=None, submissions=(sub,))])
        for case, event in news:
            for update in interpret(case, event, policy, webhooks_work=False):
                if update.ended:
                    return update
                sub = update.now
                phase = (update.report.phase if update.report else None) or sub.state.value
                if phase != last:
                    say(phase)
                last = phase


async def _judge(context: Context, update: SubmissionUpdate | None) -> Result:
    if update is None:
        return fail(
            NAME,
            "The run did not end in time and was cancelled.",
            "Check runpod.workers and the worker's log in RunPod's console.",
        )
    report, code = update.report, update.now.error_code
    if code is not None or report is None or report.video_url is None:
        fix = CODES[code].advice if code in CODES else "See the worker's log."
        return fail(NAME, f"{code}: {update.now.error_message}", fix)
    with tempfile.TemporaryFile() as file:
        size = 0
        try:
            async with context.http.stream(
                "GET", report.video_url, follow_redirects=True
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
                else why(error)
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
    return ok(NAME, f"Received an {FRAMES}-frame video. {_bill(context, report)}")


def _bill(context: Context, update: RunUpdate) -> str:
    seconds = (update.execution_ms or 0) / 1000
    text = f"It waited {(update.delay_ms or 0) / 1000:.0f} s and used {seconds:.0f} GPU seconds"
    price = context.settings.gpu_price_per_second
    return f"{text} (${float(price) * seconds:.3f})." if price else f"{text}."


def _storage(context: Context) -> StorageApi:
    settings = context.settings
    key = settings.supabase_service_role_key.get_secret_value()
    return StorageApi(url=settings.supabase_url, key=key, client=context.http)


def _input_media(context: Context) -> InputMedia:
    settings = context.settings
    buckets = {*settings.input_buckets, settings.media_bucket}
    return InputMedia(
        policy=replace(input_policy(settings), input_buckets=frozenset(buckets)),
        fetcher=Fetcher(allow_private_hosts=settings.input_allow_private_hosts),
        storage=_storage(context),
        decoders=Decoders(decoder_limits(settings)),
    )


def _face() -> bytes:
    """Return a PNG with a drawn face: the model needs one to animate."""
    from PIL import Image, ImageDraw  # not above: the daemon must not load it

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
