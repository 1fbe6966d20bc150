"""From a claimed row to what can be sent: its media are fetched, planned and published."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import structlog

from worker.jobs.errors import InputUnavailable, StoreRefused, StoreUnavailable, TransientError
from worker.jobs.job import Job
from worker.jobs.retry import INPUT_SECONDS
from worker.plan.media_facts import PublishedInputs
from worker.plan.options import RequestedOptions
from worker.plan.plan import Plan, make_plan
from worker.plan.policy import PlanPolicy
from worker.ports import Clock, Jitter, Media
from worker.runtime.readiness import Readiness
from worker.workflow.validation import Template

log = structlog.get_logger(__name__)

# How long a job waits for our own Storage, since it first failed, before its file is unreachable.
OWN_STORAGE_PATIENCE = 3600.0
LARGEST_SEED = 999_999
WAITING_KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a run is made from."""

    plan: Plan
    inputs: PublishedInputs


class Preparer:
    """Makes plans and publishes inputs; `own_addresses` begin the URLs of our own Storage."""

    def __init__(
        self,
        *,
        media: Media,
        template: Template,
        policy: PlanPolicy,
        readiness: Readiness,
        own_addresses: tuple[str, ...],
        clock: Clock,
        jitter: Jitter,
    ) -> None:
        self._media = media
        self._template = template
        self._policy = policy
        self._readiness = readiness
        self._own_addresses = own_addresses
        self._clock = clock
        # When our own Storage first failed each job; forgotten when it delivers.
        self._waiting_since: OrderedDict[str, float] = OrderedDict()
        self._jitter = jitter

    async def prepare(self, job: Job) -> Prepared:
        """Look at the inputs once.

        Raise JobFailed, InputUnavailable if a host may deliver at another try, or TransientError if
        our own Storage is away or no file can be decoded now.
        """
        try:
            prepared = await self._plan_and_publish(job)
        except InputUnavailable as error:
            if not self._at_our_own(job, error):
                raise
            self._readiness.report("storage", error.message)
            raise TransientError(error.message, retry_in=error.retry_in) from error
        if self._is_own(job.image_url) or self._is_own(job.audio_url):
            self._readiness.clear("storage")
        self._waiting_since.pop(job.id, None)
        return prepared

    async def discard(self, prepared: Prepared) -> None:
        """Remove what was published for a run that will not be."""
        try:
            if prepared.inputs.objects:
                await self._media.discard(prepared.inputs.objects)
        except (StoreUnavailable, StoreRefused) as error:
            log.warning("inputs.not_discarded", reason=error.message)

    async def _plan_and_publish(self, job: Job) -> Prepared:
        async with self._media.open(
            image_url=job.image_url,
            audio_url=job.audio_url,
            user_id=job.user_id,
            seconds=INPUT_SECONDS - job.input_seconds,
        ) as opened:
            plan = make_plan(
                options=_requested(job),
                audio=opened.audio,
                image=opened.image,
                advance=self._template.advance,
                policy=self._policy,
                seed=self._draw_seed,
            )
            inputs = await self._media.publish(
                opened,
                plan,
                job_id=job.id,
                attempt=job.attempt,
                ttl_seconds=plan.ttl_seconds,
            )
        return Prepared(plan=plan, inputs=inputs)

    def _draw_seed(self) -> int:
        """Draw a seed from 1 to 999999."""
        return 1 + min(int(self._jitter() * LARGEST_SEED), LARGEST_SEED - 1)

    def _at_our_own(self, job: Job, error: InputUnavailable) -> bool:
        """Whether our own Storage is away: the user's file may be fine, so the job waits."""
        if not self._is_own(job.image_url if error.code.startswith("image") else job.audio_url):
            return False
        now = self._clock()
        since = self._waiting_since.setdefault(job.id, now)
        if len(self._waiting_since) > WAITING_KEPT:
            self._waiting_since.popitem(last=False)
        return now - since < OWN_STORAGE_PATIENCE

    def _is_own(self, address: str | None) -> bool:
        return (address or "").strip().startswith(self._own_addresses)


def _requested(job: Job) -> RequestedOptions:
    return RequestedOptions(
        width=job.width,
        height=job.height,
        quality=job.quality,
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        seed=job.seed,
        steps=job.steps,
        model=job.metadata.get("model"),
        lora=job.metadata.get("lora"),
        crf=job.metadata.get("crf"),
    )
