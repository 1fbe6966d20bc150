"""Opens a job's two inputs, and hands them to RunPod: as they are, or prepared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from tempfile import TemporaryFile
from typing import BinaryIO
from uuid import UUID

from worker.jobs.errors import InputUnavailable, JobFailed, Notice
from worker.media.addresses import Kind
from worker.media.audio import probe_audio
from worker.media.fetch import Fetcher
from worker.media.images import DEFAULT_MAX_PIXELS, Fit, probe_image
from worker.media.prepared import PreparedStore, RenderPlan
from worker.media.storage import SCHEME, ObjectName, StorageApi, parse_storage_url
from worker.media.threads import MediaThreads, both
from worker.plan.media_facts import AudioFacts, ImageFacts, PublishedInputs

MIB = 1024 * 1024
# RunPod counts a run's ttl from its own clock, and the handler downloads at the very end of it.
_SIGNED_LONGER_SECONDS = 900
_PROBE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPolicy:
    """The operator's limits and choices; sizes in bytes must not be reached, only approached."""

    max_image_bytes: int = 10 * MIB
    max_audio_bytes: int = 50 * MIB
    max_image_pixels: int = DEFAULT_MAX_PIXELS
    max_decoded_seconds: int = 600
    input_buckets: frozenset[str] = frozenset()
    media_bucket: str | None = None
    image_fit: Fit = "cover"
    download_seconds: float = 120.0
    max_open: int = 12
    """Jobs whose media lie in the temporary directory at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedMedia:
    """Both inputs of a job, fetched and decoded; valid inside `InputDesk.open` alone."""

    audio: AudioFacts
    image: ImageFacts
    audio_source: str | ObjectName
    image_source: str | ObjectName
    audio_file: BinaryIO
    image_file: BinaryIO

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """What the files themselves give reason to say."""
        return (*self.audio.warnings, *self.image.warnings)


class InputDesk:
    """Takes inputs in and gives them out again; owns the threads that decode media."""

    def __init__(
        self,
        *,
        policy: InputPolicy,
        fetcher: Fetcher,
        storage: StorageApi | None = None,
        threads: MediaThreads | None = None,
    ) -> None:
        self._policy = policy
        self._fetcher = fetcher
        self._storage = storage
        self._threads = threads or MediaThreads()
        self._open = asyncio.Semaphore(policy.max_open)
        self._prepared: PreparedStore | None = None
        if policy.media_bucket is not None:
            self._prepared = PreparedStore(
                bucket=policy.media_bucket,
                storage=self._stored(),
                threads=self._threads,
                fit=policy.image_fit,
                max_pixels=policy.max_image_pixels,
            )

    def close(self) -> None:
        """Give the threads up."""
        self._threads.close()

    @asynccontextmanager
    async def open(
        self, *, image_url: str | None, audio_url: str | None, user_id: str | UUID | None
    ) -> AsyncIterator[OpenedMedia]:
        """Fetch and decode both inputs; JobFailed, or InputUnavailable when trying again helps."""
        user = None if user_id is None else str(user_id)
        image_source = self._source("image", image_url, user)
        audio_source = self._source("audio", audio_url, user)
        async with self._open:
            with TemporaryFile() as image_file, TemporaryFile() as audio_file:
                image, audio = await both(
                    self._image(image_source, image_file), self._audio(audio_source, audio_file)
                )
                yield OpenedMedia(
                    audio=audio,
                    image=image,
                    audio_source=audio_source,
                    image_source=image_source,
                    audio_file=audio_file,
                    image_file=image_file,
                )

    async def probe_audio(self, source: str | ObjectName) -> AudioFacts:
        """The facts of one audio address, for the command line."""
        with TemporaryFile() as file:
            return await self._audio(source, file)

    async def probe_image(self, source: str | ObjectName) -> ImageFacts:
        """The facts of one image address, for the command line."""
        with TemporaryFile() as file:
            return await self._image(source, file)

    def _source(self, kind: Kind, url: str | None, user_id: str | None) -> str | ObjectName:
        if url is None or not url.strip():
            raise JobFailed(f"{kind}_missing", f"The job names no {kind}: set {kind}_url.")
        url = url.strip()
        if not url.lower().startswith(SCHEME):
            return url
        if self._storage is None or not self._policy.input_buckets:
            raise JobFailed(
                "input_forbidden",
                f"The {kind} is named by storage://, but this service opens no bucket "
                "(INPUT_BUCKETS).",
            )
        return parse_storage_url(
            url, kind=kind, buckets=self._policy.input_buckets, user_id=user_id
        )

    async def _image(self, source: str | ObjectName, file: BinaryIO) -> ImageFacts:
        await self._fetch(source, "image", self._policy.max_image_bytes, file)
        limit = self._policy.max_image_pixels
        async with _within(_PROBE_SECONDS, "image"):
            return await self._threads.run_image(
                lambda stopped: probe_image(file, max_pixels=limit, stopped=stopped)
            )

    async def _audio(self, source: str | ObjectName, file: BinaryIO) -> AudioFacts:
        await self._fetch(source, "audio", self._policy.max_audio_bytes, file)
        limit = self._policy.max_decoded_seconds
        async with _within(_PROBE_SECONDS, "audio"):
            return await self._threads.run(
                lambda stopped: probe_audio(file, max_seconds=limit, stopped=stopped)
            )

    async def _fetch(
        self, source: str | ObjectName, kind: Kind, limit: int, file: BinaryIO
    ) -> None:
        if isinstance(source, str):
            await self._fetcher.fetch(source, kind=kind, limit=limit, into=file)
            return
        await self._stored().download(
            source, kind=kind, limit=limit, into=file, seconds=self._policy.download_seconds
        )

    def _stored(self) -> StorageApi:
        if self._storage is None:
            raise RuntimeError("no Storage was given to the desk")
        return self._storage

    async def publish(
        self,
        media: OpenedMedia,
        plan: RenderPlan,
        *,
        job_id: str | UUID,
        attempt: int,
        ttl_seconds: int,
    ) -> PublishedInputs:
        """Addresses that outlive a run's ttl: of the originals, or of prepared inputs."""
        lifetime = ttl_seconds + _SIGNED_LONGER_SECONDS
        if self._prepared is None:
            _refuse_unprepared(media)
            return PublishedInputs(
                image_url=await self._address(media.image_source, "image", lifetime),
                audio_url=await self._address(media.audio_source, "audio", lifetime),
            )
        names = self._prepared.names(job_id, attempt)
        try:
            await self._prepared.put_image(names.image, media.image_file, plan)
            await self._prepared.put_audio(names.audio, media.audio_file, media.audio, plan)
            return PublishedInputs(
                image_url=await self._address(names.image, "image", lifetime),
                audio_url=await self._address(names.audio, "audio", lifetime),
                objects=names.objects,
            )
        except BaseException:
            await self._prepared.discard_quietly(names.objects)
            raise

    async def _address(self, source: str | ObjectName, kind: Kind, seconds: int) -> str:
        if isinstance(source, str):
            return source
        return await self._stored().sign(source, seconds=seconds, kind=kind)

    async def discard(self, objects: Sequence[str]) -> None:
        """Delete what `publish` made; StoreUnavailable when Storage does not take it."""
        if self._prepared is not None:
            await self._prepared.discard(objects)

    async def discard_job(self, job_id: str | UUID) -> int:
        """Delete every prepared input of a job, all attempts; the number of objects deleted."""
        return 0 if self._prepared is None else await self._prepared.discard_job(job_id)

    async def purge_older_than(self, instant: datetime) -> int:
        """Delete prepared inputs made before an instant; the number of objects deleted."""
        return 0 if self._prepared is None else await self._prepared.purge_older_than(instant)


def _refuse_unprepared(media: OpenedMedia) -> None:
    """Refuse originals with which ComfyUI's loaders would fail on the GPU, after the cold start."""
    if media.image.format == "HEIF":
        raise JobFailed(
            "image_unreadable",
            "The image is HEIC, which the GPU worker cannot read: save it as JPEG or PNG, or let "
            "the operator set MEDIA_BUCKET, so that it is converted.",
        )
    if media.audio.bad_packets:
        raise JobFailed(
            "audio_unreadable",
            f"The audio is damaged in {media.audio.bad_packets} places, at which the GPU worker "
            "would stop: export it again, or let the operator set MEDIA_BUCKET.",
        )


@asynccontextmanager
async def _within(seconds: float, kind: Kind) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise InputUnavailable(
            f"{kind}_unreadable", f"The {kind} could not be decoded within {seconds:g} s."
        ) from error
