"""Fetches and decodes a job's two inputs, and publishes them for RunPod: originals or prepared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fractions import Fraction
from tempfile import TemporaryFile
from typing import BinaryIO
from uuid import UUID

from worker.jobs.errors import InputUnavailable, JobFailed
from worker.jobs.retry import INPUT_SECONDS
from worker.media.decoder_queue import Client
from worker.media.decoders import Decoders
from worker.media.fetch import Deadline, Fetcher
from worker.media.first_look import Kind
from worker.media.prepared import PreparedStore, RenderPlan
from worker.media.storage import SCHEME, ObjectName, StorageApi, parse_storage_url
from worker.media.together import both
from worker.plan.media_facts import MOST_SECONDS, AudioFacts, ImageFacts, PublishedInputs
from worker.plan.originals import refuse_originals
from worker.plan.policy import ImageFit

# RunPod counts a run's ttl by its own clock, and the handler may download at the end of it.
_SIGNED_LONGER_SECONDS = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPolicy:
    """The operator's limits and choices.

    Files must be smaller than `max_image_bytes` and `max_audio_bytes`; audio that is longer than
    `max_audio_seconds` is refused by its header, or where it exceeds them. `max_open` jobs may have
    their media in the temporary directory at a time. Without `media_bucket` nothing is prepared.
    """

    max_image_bytes: int
    max_audio_bytes: int
    max_image_pixels: int
    input_buckets: frozenset[str]
    media_bucket: str | None
    image_fit: ImageFit
    max_open: int = 12
    max_audio_seconds: Fraction = MOST_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedMedia:
    """Both inputs of a job, fetched and decoded; valid only inside `InputMedia.open`."""

    audio: AudioFacts
    image: ImageFacts
    audio_source: str | ObjectName
    image_source: str | ObjectName
    audio_file: BinaryIO
    image_file: BinaryIO
    client: Client


class InputMedia:
    """Opens, publishes and removes the inputs of jobs; owns the decoders."""

    def __init__(
        self,
        *,
        policy: InputPolicy,
        fetcher: Fetcher,
        storage: StorageApi | None = None,
        decoders: Decoders | None = None,
    ) -> None:
        self._policy = policy
        self._fetcher = fetcher
        self._storage = storage
        self._decoders = decoders or Decoders()
        self._open = asyncio.Semaphore(policy.max_open)
        self._prepared: PreparedStore | None = None
        if policy.media_bucket is not None:
            self._prepared = PreparedStore(
                bucket=policy.media_bucket,
                storage=self._stored(),
                decoders=self._decoders,
                fit=policy.image_fit,
                max_pixels=policy.max_image_pixels,
            )

    def close(self) -> None:
        """End the decoders."""
        self._decoders.close()

    @asynccontextmanager
    async def open(
        self,
        *,
        image_url: str | None,
        audio_url: str | None,
        user_id: str | UUID | None,
        seconds: float = INPUT_SECONDS,
    ) -> AsyncIterator[OpenedMedia]:
        """Fetch and decode both inputs; both must have arrived within `seconds`.

        Raise JobFailed, InputUnavailable if another try may help, or DecoderUnavailable if no
        decoder can work on them now.
        """
        user = None if user_id is None else str(user_id)
        image_source = self._source("image", image_url, user)
        audio_source = self._source("audio", audio_url, user)
        async with self._open:
            with TemporaryFile() as image_file, TemporaryFile() as audio_file:
                # Waiting for others is over: from here on the job's own hosts are measured.
                deadline, client = Deadline.after(seconds), Client(user)
                image, audio = await both(
                    self._image(image_source, image_file, deadline, client),
                    self._audio(audio_source, audio_file, deadline, client),
                )
                yield OpenedMedia(
                    audio=audio,
                    image=image,
                    audio_source=audio_source,
                    image_source=image_source,
                    audio_file=audio_file,
                    image_file=image_file,
                    client=client,
                )

    async def probe_audio(self, url: str) -> AudioFacts:
        """Return the facts of one audio URL; raise as `open`."""
        with TemporaryFile() as file:
            return await self._audio(url, file, Deadline.after(), Client())

    async def probe_image(self, url: str) -> ImageFacts:
        """Return the facts of one image URL; raise as `open`."""
        with TemporaryFile() as file:
            return await self._image(url, file, Deadline.after(), Client())

    def _source(self, kind: Kind, url: str | None, user_id: str | None) -> str | ObjectName:
        if url is None or not url.strip():
            raise JobFailed(f"{kind}_missing", f"The job has no {kind}: set {kind}_url.")
        url = url.strip()
        if not url.lower().startswith(SCHEME):
            return url
        if self._storage is None or not self._policy.input_buckets:
            raise JobFailed(
                "input_forbidden",
                f"The {kind} has a storage:// address, but this service opens no bucket "
                "(INPUT_BUCKETS).",
            )
        return parse_storage_url(
            url, kind=kind, buckets=self._policy.input_buckets, user_id=user_id
        )

    async def _image(
        self, source: str | ObjectName, file: BinaryIO, deadline: Deadline, client: Client
    ) -> ImageFacts:
        await self._fetch(source, "image", self._policy.max_image_bytes, file, deadline)
        limit = self._policy.max_image_pixels
        return await self._decoders.probe_image(file, max_pixels=limit, client=client)

    async def _audio(
        self, source: str | ObjectName, file: BinaryIO, deadline: Deadline, client: Client
    ) -> AudioFacts:
        await self._fetch(source, "audio", self._policy.max_audio_bytes, file, deadline)
        return await self._decoders.probe_audio(
            file, max_seconds=self._policy.max_audio_seconds, client=client
        )

    async def _fetch(
        self,
        source: str | ObjectName,
        kind: Kind,
        limit: int,
        file: BinaryIO,
        deadline: Deadline,
    ) -> None:
        try:
            if isinstance(source, str):
                await self._fetcher.fetch(
                    source, kind=kind, limit=limit, into=file, deadline=deadline
                )
            else:
                await self._stored().download(
                    source, kind=kind, limit=limit, into=file, deadline=deadline
                )
        except InputUnavailable as error:
            error.seconds = deadline.spent
            raise

    def _stored(self) -> StorageApi:
        if self._storage is None:
            raise RuntimeError("InputMedia was made without Storage")
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
        """Return URLs of the originals, or of prepared inputs, that are valid beyond the run's ttl.

        `ttl_seconds` counts from now. Raise JobFailed if the GPU worker could not read an
        original, and StoreUnavailable if Storage is away. What was uploaded before an error is
        deleted.
        """
        lifetime = ttl_seconds + _SIGNED_LONGER_SECONDS
        if self._prepared is None:
            refuse_originals(media.audio, media.image)
            return PublishedInputs(
                image_url=await self._address(media.image_source, "image", lifetime),
                audio_url=await self._address(media.audio_source, "audio", lifetime),
            )
        names = self._prepared.names(job_id, attempt)
        try:
            await self._prepared.put_image(names.image, media.image_file, plan, client=media.client)
            await self._prepared.put_audio(
                names.audio, media.audio_file, media.audio, plan, client=media.client
            )
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
        """Delete the objects of `publish`; raise StoreUnavailable if Storage is away."""
        if self._prepared is not None:
            await self._prepared.discard(objects)
