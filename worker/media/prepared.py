"""Renders, uploads and deletes prepared inputs: files of the exact size and length of a video."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import BinaryIO, Protocol
from uuid import UUID

from worker.jobs.errors import BucketUnusable, StoreUnavailable
from worker.media.decoder_queue import Client
from worker.media.decoders import Decoders
from worker.media.storage import ObjectName, StorageApi
from worker.plan.frames import FRAME
from worker.plan.media_facts import AudioFacts
from worker.plan.policy import ImageFit

_FOLDER = "inputs"


class RenderPlan(Protocol):
    """The part of a plan that prepared inputs depend on: pixels, and frames of 1/25 s."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def frames(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedInputs:
    """The two objects of one attempt."""

    image: ObjectName
    audio: ObjectName

    @property
    def objects(self) -> tuple[str, ...]:
        """Their names as the submission keeps them."""
        return (str(self.image), str(self.audio))


class PreparedStore:
    """Prepared inputs in one bucket, in a folder of its own for each time that they are made."""

    def __init__(
        self,
        *,
        bucket: str,
        storage: StorageApi,
        decoders: Decoders,
        fit: ImageFit,
        max_pixels: int,
        token: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._bucket = bucket
        self._token = token
        self._storage = storage
        self._decoders = decoders
        self._fit = fit
        self._max_pixels = max_pixels

    def names(self, job_id: str | UUID, attempt: int) -> PreparedInputs:
        """Return new names for an attempt's inputs, which nobody can guess."""
        folder = f"{_FOLDER}/{job_id}/{attempt}/{self._token()}"
        return PreparedInputs(
            image=ObjectName(bucket=self._bucket, path=f"{folder}/image.jpg"),
            audio=ObjectName(bucket=self._bucket, path=f"{folder}/audio.flac"),
        )

    async def put_image(
        self, name: ObjectName, file: BinaryIO, plan: RenderPlan, *, client: Client
    ) -> None:
        """Upload an upright sRGB image of exactly the render size."""
        with TemporaryFile() as into:
            await self._decoders.render_image(
                file,
                size=(plan.width, plan.height),
                fit=self._fit,
                max_pixels=self._max_pixels,
                into=into,
                client=client,
            )
            await self._put(name, into, "image/jpeg")

    async def put_audio(
        self,
        name: ObjectName,
        file: BinaryIO,
        facts: AudioFacts,
        plan: RenderPlan,
        *,
        client: Client,
    ) -> None:
        """Upload audio of exactly as many samples as the frames last."""
        with TemporaryFile() as into:
            await self._decoders.render_audio(
                file, facts, seconds=plan.frames * FRAME, into=into, client=client
            )
            await self._put(name, into, "audio/flac")

    async def _put(self, name: ObjectName, file: BinaryIO, content_type: str) -> None:
        try:
            await self._storage.upload(name, file, content_type=content_type)
        except BucketUnusable as error:
            raise BucketUnusable(
                f"{error.message} Prepared inputs need it: run the migrations or create a private "
                f"bucket {self._bucket} without limits, or correct MEDIA_BUCKET."
            ) from error

    async def discard(self, objects: Sequence[str]) -> None:
        """Delete objects by their names; ignore names that this store did not make."""
        start = f"{self._bucket}/{_FOLDER}/"
        own = [name.removeprefix(f"{self._bucket}/") for name in objects if name.startswith(start)]
        await self._storage.delete(self._bucket, own)

    async def discard_quietly(self, objects: Sequence[str]) -> None:
        """Try to delete after another error; housekeeping deletes what is left."""
        try:
            await self.discard(objects)
        except StoreUnavailable:
            return
