"""One claim's way to RunPod: prepared, committed as a submission, posted, its outcome written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from worker.dispatch import outcome
from worker.dispatch.gate import Gate
from worker.dispatch.preparation import Prepared, Preparer
from worker.jobs.errors import (
    JobFailed,
    OperatorFault,
    RunGone,
    RunPodRateLimited,
    RunPodUnavailable,
    RunRefused,
    StoreRefused,
    StoreUnavailable,
    SubmissionUnknown,
    TransientError,
)
from worker.jobs.job import Job
from worker.ports import Beginning, ClaimEnding, JobStore, RunPod
from worker.runtime.clock import boot_time
from worker.runtime.metrics import METRICS
from worker.workflow.request import build_body
from worker.workflow.validation import Template

log = structlog.get_logger(__name__)

# A row that could not be sent for reasons of ours; else it would be downloaded over and over.
UNSENT_SECONDS = 10.0
OUR_FAULT = (
    "The worker met an error of its own with this job. Try it again; the operator finds the "
    "cause in the worker's log."
)


@dataclass(slots=True, eq=False)
class Claim:
    """One row in hand. `posting`: POST /run may be under way, so it must not be interrupted."""

    job: Job
    began: float
    task: asyncio.Task[None] | None = None
    begun: bool = False
    unwanted: bool = False
    posting: bool = False

    def let_go(self) -> None:
        """Stop the work; a task that has not begun could not clean up if it were cancelled."""
        self.unwanted = True
        if self.begun and self.task is not None:
            self.task.cancel()


class Submitter:
    """Carries claims to RunPod; whatever happens on the way ends in the table."""

    def __init__(
        self,
        *,
        store: JobStore,
        runpod: RunPod,
        preparer: Preparer,
        gate: Gate,
        template: Template,
        max_submissions: int,
        lease_seconds: float,
        webhook_url: Callable[[str, int], str | None],
        on_submitted: Callable[[str, int, str, str], None],
        clock: Callable[[], float] = boot_time,
    ) -> None:
        self._store = store
        self._runpod = runpod
        self._preparer = preparer
        self._gate = gate
        self._template = template
        self._max_submissions = max_submissions
        self._lease_seconds = lease_seconds
        self._webhook_url = webhook_url
        self._on_submitted = on_submitted
        self._clock = clock

    async def carry(self, claim: Claim) -> None:
        """Bring the claim to its end; an error of one job stays with that job."""
        job = claim.job
        with structlog.contextvars.bound_contextvars(job_id=job.id, attempt=job.attempt):
            try:
                claim.begun = True
                if not claim.unwanted:
                    await self._prepare_and_submit(claim)
                else:
                    await self._end(job, outcome.unsent())
            except asyncio.CancelledError:
                # Cancelled by us: the row goes back, and the task ends as if it had finished.
                await self._end(job, self._broken_off(claim, outcome.unsent()))
            except JobFailed as error:
                log.info("job.failed", code=error.code, reason=error.message)
                await self._end(job, outcome.failed(error.code, error.message))
            except (StoreUnavailable, StoreRefused) as error:
                # If the table is away for this, too, the lease runs out.
                log.warning("job.abandoned", reason=error.message)
                await self._end(job, self._broken_off(claim, outcome.unsent(UNSENT_SECONDS)))
            except TransientError as error:
                log.info("job.given_back", reason=error.message)
                detail = f"Waiting: {error.message}"[:300]
                ending = outcome.unsent(error.retry_in or UNSENT_SECONDS, detail=detail)
                await self._end(job, self._broken_off(claim, ending))
            except Exception:  # one odd row must not end the process for all
                log.exception("job.internal_error")
                ending = outcome.failed("internal_error", OUR_FAULT)
                await self._end(job, self._broken_off(claim, ending))

    async def _prepare_and_submit(self, claim: Claim) -> None:
        job = claim.job
        if job.submissions >= self._max_submissions:
            raise JobFailed(
                "too_many_submissions",
                f"The job was submitted {job.submissions} times, which is all that is permitted.",
            )
        prepared = await self._preparer.prepare(job)
        sent: bool | None = None
        try:
            sent = await self._submit(claim, prepared)
        finally:
            # Without a word of the POST a run may be reading them.
            if sent is False or not claim.posting:
                await self._preparer.discard(prepared)

    async def _submit(self, claim: Claim, prepared: Prepared) -> bool:
        """Returns whether a run may exist that reads the inputs."""
        job = claim.job
        body = self._body(job, prepared)
        if not self._gate.breaker.allow():
            await self._end(job, outcome.unsent())
            return False
        claim.posting = True
        began = self._clock()
        try:
            begun = await self._store.begin(job, self._beginning(prepared))
        except (StoreUnavailable, StoreRefused) as error:
            self._gate.breaker.unused()
            # It may have been committed all the same; but we know that nothing was sent.
            why = f"not sent: {error.message}"
            await self._settle(job, outcome.refused(why, UNSENT_SECONDS))
            claim.posting = False
            raise
        if begun is None:
            self._gate.breaker.unused()
            log.info("job.claim_lost")
            await self._end(job, outcome.unsent(5.0))
            return False
        # A machine that slept here may wake when the lease is long over and another has the row.
        if self._clock() - began > self._lease_seconds / 2:
            self._gate.breaker.unused()
            why = "the lease was too old to send"
            await self._end(job, outcome.refused(why, UNSENT_SECONDS))
            return False
        return await self._post(claim, body)

    def _body(self, job: Job, prepared: Prepared) -> dict[str, object]:
        return build_body(
            self._template,
            prepared.plan,
            job_id=job.id,
            image_url=prepared.inputs.image_url,
            audio_url=prepared.inputs.audio_url,
            webhook=self._webhook_url(job.id, job.attempt),
        )

    def _beginning(self, prepared: Prepared) -> Beginning:
        return Beginning(
            max_submissions=self._max_submissions,
            endpoint_id=self._runpod.endpoint_id,
            ttl_seconds=prepared.plan.ttl_seconds,
            template_hash=self._template.sha256,
            plan=prepared.plan.as_json(),
            columns=prepared.plan.as_row(),
            input_objects=prepared.inputs.objects,
        )

    async def _post(self, claim: Claim, body: dict[str, object]) -> bool:
        job = claim.job
        try:
            update = await self._runpod.submit(body)
        except RunPodRateLimited as error:
            self._gate.trip(error.message, wait=error.retry_in)
            await self._settle(job, outcome.refused(error.message, error.retry_in or 10.0))
        except RunPodUnavailable as error:
            self._gate.trip(error.message)
            await self._settle(job, outcome.refused(error.message, 0.0))
        except OperatorFault as error:
            self._gate.trip(error.message, operator=True)
            await self._settle(job, outcome.refused(error.message, 0.0))
        except RunRefused as error:
            self._gate.untrip()
            log.info("job.refused", status=error.status, reason=error.message)
            ending = outcome.failed("run_refused", error.message, submission="refused")
            await self._settle(job, ending)
        except SubmissionUnknown as error:
            self._gate.trip(error.message)
            METRICS.submissions.labels("unknown").inc()
            log.warning("job.submission_unknown", reason=error.message)
            await self._settle(job, outcome.unknown(error.message))
            return True
        else:
            self._gate.untrip()
            METRICS.submissions.labels("accepted").inc()
            METRICS.claim_to_submit.observe(max(0.0, self._clock() - claim.began))
            await self._record(job, update.run_id)
            return True
        METRICS.submissions.labels("refused").inc()
        return False

    async def _record(self, job: Job, run_id: str) -> None:
        # From here on the run is watched, even if the table is away longer than its result lives.
        self._on_submitted(job.id, job.attempt, self._runpod.endpoint_id, run_id)
        recorded = await outcome.record(self._store, job, run_id)
        if recorded is not None and recorded.wanted:
            log.info("job.submitted", run_id=run_id)
            return
        log.info("job.run_not_wanted", run_id=run_id)
        try:
            await self._runpod.cancel(run_id)
        except (RunGone, OperatorFault, TransientError) as error:
            log.warning("run.cancel_failed", run_id=run_id, reason=error.message)

    def _broken_off(self, claim: Claim, ending: ClaimEnding) -> ClaimEnding:
        """How a claim ends whose work broke off: with a POST under way its outcome is unknown."""
        if not claim.posting:
            return ending
        self._gate.breaker.unused()
        return outcome.unknown("the work broke off while POST /run was under way")

    async def _settle(self, job: Job, ending: ClaimEnding) -> None:
        await outcome.settle(self._store, job, ending)

    async def _end(self, job: Job, ending: ClaimEnding) -> None:
        await outcome.end(self._store, job, ending)
