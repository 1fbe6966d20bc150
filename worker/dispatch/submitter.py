"""One claim's way to RunPod: prepared, committed as a submission, posted, its outcome written."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

import structlog

from worker.dispatch.claim import Claim
from worker.dispatch.gate import SubmissionGate
from worker.dispatch.preparer import Prepared, Preparer
from worker.jobs.errors import (
    BucketUnusable,
    InputUnavailable,
    JobFailed,
    OperatorFault,
    RunPodRateLimited,
    RunPodUnavailable,
    RunRefused,
    StoreRefused,
    StoreUnavailable,
    SubmissionUnknown,
    TransientError,
)
from worker.jobs.events import (
    Accepted,
    Event,
    InputNotDelivered,
    OutcomeUnknown,
    Refused,
    Rejected,
    Released,
)
from worker.jobs.retry import backoff, too_many
from worker.ports import (
    ClaimLimits,
    Clock,
    JobStore,
    NewSubmission,
    NotBegun,
    RunPod,
    Sleep,
)
from worker.reconcile.effects import EffectRunner
from worker.reconcile.tracker import RunTracker
from worker.reconcile.updater import Applied, JobUpdater
from worker.runtime.machine import machine_trouble
from worker.runtime.metrics import METRICS
from worker.runtime.readiness import Readiness
from worker.workflow.request import build_body
from worker.workflow.validation import Template

log = structlog.get_logger(__name__)

# A row that could not be sent for reasons of ours waits so long, or it would be fetched each time.
UNSENT_SECONDS = 10.0
UNSENT_MOST = 300.0
FAILURES_KEPT = 10_000
RATE_LIMITED_SECONDS = 10.0
CLAIM_LOST_SECONDS = 5.0
MACHINE_SECONDS = 30.0
AWAY_SECONDS = 2.0
# Half an hour of an absent table: what is known of a POST is worth keeping that long.
SETTLE_TRIES = 900
OUR_FAULT = (
    "The worker met an error of its own with this job. Try it again; the operator finds the "
    "cause in the worker's log."
)


class Submitter:
    """Carries claims to RunPod; each claim ends as one event, which is written in one place."""

    def __init__(
        self,
        *,
        store: JobStore,
        runpod: RunPod,
        preparer: Preparer,
        gate: SubmissionGate,
        updater: JobUpdater,
        tracker: RunTracker,
        effects: EffectRunner,
        readiness: Readiness,
        template: Template,
        max_submissions: int,
        limits: ClaimLimits,
        lease_seconds: float,
        webhook_url: Callable[[str, int], str | None],
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        self._store = store
        self._runpod = runpod
        self._preparer = preparer
        self._gate = gate
        self._updater = updater
        self._tracker = tracker
        self._effects = effects
        self._readiness = readiness
        self._template = template
        self._max_submissions = max_submissions
        self._limits = limits
        self._data_failures: OrderedDict[str, int] = OrderedDict()
        self._lease_seconds = lease_seconds
        self._webhook_url = webhook_url
        self._clock = clock
        self._sleep = sleep

    async def process(self, claim: Claim) -> None:
        """Work on the claim until its end is written; an error of one job stays with that job."""
        job = claim.job
        event: Event | None = None
        with structlog.contextvars.bound_contextvars(job_id=job.id, attempt=job.attempt):
            claim.running = True
            try:
                event = await self._event(claim)
                claim.answered = True
                await self._settle(claim, event)
            except asyncio.CancelledError:
                # Cancelled by us: the row goes back, and the task ends as if it had finished.
                await self._write_once(claim, event or self._broken_off(claim))

    async def _event(self, claim: Claim) -> Event:
        """Work on the claim; return how it ends."""
        attempt = claim.job.attempt
        try:
            return await self._work(claim)
        except JobFailed as error:
            log.info("job.rejected", code=error.code, reason=error.message)
            event: Event = Rejected(attempt=attempt, code=error.code, message=error.message)
        except BucketUnusable as error:
            event = self._wait_for_bucket(attempt, error.message)
        except (StoreUnavailable, StoreRefused) as error:
            log.warning("claim.released", reason=error.message)
            self._readiness.report("data", error.message)
            event = Released(
                attempt=attempt,
                retry_seconds=self._data_wait(claim.job.id),
                detail="Waiting: the service cannot read or store its data just now.",
            )
        except InputUnavailable as error:
            log.info("job.input_not_delivered", code=error.code, reason=error.message)
            event = InputNotDelivered(
                attempt=attempt,
                code=error.code,
                message=error.message,
                seconds=error.seconds,
                retry_in=error.retry_in,
            )
        except TransientError as error:
            log.info("claim.released", reason=error.message)
            event = Released(
                attempt=attempt,
                retry_seconds=error.retry_in or UNSENT_SECONDS,
                detail=f"Waiting: {error.message}"[:300],
            )
        except Exception as error:  # one odd row must not end the process for all
            trouble = machine_trouble(error)
            if trouble is None:
                log.exception("job.internal_error")
                event = Rejected(attempt=attempt, code="internal_error", message=OUR_FAULT)
            else:
                event = self._wait_for_machine(attempt, trouble)
        return self._broken_off(claim) if claim.posting else event

    def _data_wait(self, job_id: str) -> float:
        """Seconds until a job is tried again whose data could not be read or stored.

        Each time its files are fetched again: what stays so is tried less and less often. Counted
        apart from the attempts, which also grow when there was merely no room.
        """
        failures = self._data_failures.pop(job_id, 0) + 1
        self._data_failures[job_id] = failures
        if len(self._data_failures) > FAILURES_KEPT:
            self._data_failures.popitem(last=False)
        return backoff(failures, first=UNSENT_SECONDS, most=UNSENT_MOST, jitter=1.0)

    def _wait_for_machine(self, attempt: int, trouble: str) -> Event:
        """A full disk and the like say nothing about the job."""
        if self._readiness.report("machine", f"{trouble}; jobs wait", severity="down"):
            log.error("machine.trouble", reason=trouble)
        detail = "Waiting: the service has a problem with its own machine. Nothing is lost."
        return Released(attempt=attempt, retry_seconds=MACHINE_SECONDS, detail=detail)

    def _wait_for_bucket(self, attempt: int, reason: str) -> Event:
        """Originals are never passed on instead: nobody has checked what a host sends next."""
        if self._readiness.report("bucket", reason, severity="down"):
            log.error("bucket.unusable", reason=reason)
        retry = backoff(attempt, first=UNSENT_SECONDS, most=UNSENT_MOST, jitter=1.0)
        detail = "Waiting: the service's storage must be repaired by its operator. Nothing is lost."
        return Released(attempt=attempt, retry_seconds=retry, detail=detail)

    async def _work(self, claim: Claim) -> Event:
        attempt, made = claim.job.attempt, claim.case.submission_count
        if claim.released:
            return Released(attempt=attempt)
        if made >= self._max_submissions:
            raise JobFailed("too_many_submissions", too_many(made))
        prepared = await self._preparer.prepare(claim.job)
        self._readiness.clear("machine")
        self._readiness.clear("data")
        self._data_failures.pop(claim.job.id, None)
        self._readiness.clear("bucket")
        try:
            return await self._submit(claim, prepared)
        finally:
            # Once the submission is committed a run may read them; they end with the submission.
            if not claim.committed:
                await self._preparer.discard(prepared)

    async def _submit(self, claim: Claim, prepared: Prepared) -> Event:
        attempt = claim.job.attempt
        body = self._body(claim, prepared)
        if not self._gate.allow():
            return Released(attempt=attempt)
        claim.posting = True  # the work must not be interrupted, though nothing is sent yet
        began = self._clock()
        try:
            case = await self._store.begin(claim.job, self._new_submission(prepared), self._limits)
        except (StoreUnavailable, StoreRefused) as error:
            self._gate.release_trial()
            # It may have been committed all the same; but we know that nothing was sent.
            reason = f"not sent: {error.message}"
            return Refused(attempt=attempt, reason=reason, retry_seconds=UNSENT_SECONDS)
        if isinstance(case, NotBegun):
            claim.posting = False
            self._gate.release_trial()
            log.info("claim.not_begun", reason=case.value)
            lost = case is NotBegun.CLAIM_LOST
            # Without room the row keeps its turn, and is claimed again when a run starts or ends.
            return Released(attempt=attempt, retry_seconds=CLAIM_LOST_SECONDS if lost else 0.0)
        claim.case, claim.committed = case, True
        # A machine that slept here may wake when the lease is long over and another has the row.
        if self._clock() - began > self._lease_seconds / 2:
            self._gate.release_trial()
            reason = "the lease was too old to send"
            return Refused(attempt=attempt, reason=reason, retry_seconds=UNSENT_SECONDS)
        return await self._post(claim, body)

    def _body(self, claim: Claim, prepared: Prepared) -> dict[str, object]:
        return build_body(
            self._template,
            prepared.plan,
            job_id=claim.job.id,
            image_url=prepared.inputs.image_url,
            audio_url=prepared.inputs.audio_url,
            webhook=self._webhook_url(claim.job.id, claim.job.attempt),
        )

    def _new_submission(self, prepared: Prepared) -> NewSubmission:
        return NewSubmission(
            max_submissions=self._max_submissions,
            endpoint_id=self._runpod.endpoint_id,
            ttl_seconds=prepared.plan.ttl_seconds,
            template_hash=self._template.sha256,
            plan=prepared.plan.as_json(),
            columns=prepared.plan.as_row(),
            input_objects=prepared.inputs.objects,
        )

    async def _post(self, claim: Claim, body: dict[str, object]) -> Event:
        """POST /run once, and say what its answer proves."""
        job, attempt = claim.job, claim.job.attempt
        claim.sent = True
        try:
            update = await self._runpod.submit(body)
        except RunPodRateLimited as error:
            self._gate.trip(error.message, wait=error.retry_in)
            wait = error.retry_in or RATE_LIMITED_SECONDS
            event: Event = Refused(attempt=attempt, reason=error.message, retry_seconds=wait)
        except RunPodUnavailable as error:
            self._gate.trip(error.message)
            event = Refused(attempt=attempt, reason=error.message)
        except OperatorFault as error:
            self._gate.trip(error.message, operator=True)
            event = Refused(attempt=attempt, reason=error.message)
        except RunRefused as error:
            self._gate.record_success()
            log.info("job.refused", status=error.status, reason=error.message)
            event = Refused(attempt=attempt, reason=error.message, code="run_refused")
        except SubmissionUnknown as error:
            self._gate.trip(error.message)
            METRICS.submissions.labels("unknown").inc()
            log.warning("job.submission_unknown", reason=error.message)
            return OutcomeUnknown(attempt=attempt, reason=error.message)
        else:
            self._gate.record_success()
            METRICS.submissions.labels("accepted").inc()
            METRICS.claim_to_submit.observe(max(0.0, self._clock() - claim.began))
            # From here on the run is followed, even if the table is away longer than its result.
            self._tracker.track((job.id, attempt), self._runpod.endpoint_id, update.run_id)
            return Accepted(attempt=attempt, run_id=update.run_id)
        METRICS.submissions.labels("refused").inc()
        return event

    def _broken_off(self, claim: Claim) -> Event:
        """How a claim ends whose work broke off: with a POST under way its outcome is unknown."""
        attempt = claim.job.attempt
        if not claim.posting:
            return Released(attempt=attempt)
        self._gate.release_trial()
        if not claim.sent:
            reason = "not sent: the work broke off before POST /run"
            return Refused(attempt=attempt, reason=reason, retry_seconds=UNSENT_SECONDS)
        reason = "the work broke off while POST /run was under way"
        return OutcomeUnknown(attempt=attempt, reason=reason)

    async def _settle(self, claim: Claim, event: Event) -> None:
        """Write the end of a claim; what is known of a POST waits for a table that is away."""
        if not claim.posting:
            await self._write_once(claim, event)
            return
        tries = 0
        while tries < SETTLE_TRIES or isinstance(event, Accepted):
            tries += 1
            try:
                applied = await self._updater.apply_one(claim.case, event)
            except StoreUnavailable as error:
                log.warning("job.outcome_not_written_yet", reason=error.message)
            else:
                if applied.reason is None or applied.refused:
                    await self._after(claim, event, applied)
                    return
            await self._sleep(AWAY_SECONDS)
        # The lease expires, and the submission becomes unknown.
        log.error("job.outcome_not_written")

    async def _after(self, claim: Claim, event: Event, applied: Applied) -> None:
        """A run that could not be recorded is unwanted, or unknown."""
        if not isinstance(event, Accepted):
            return
        sub = applied.case.submission(event.attempt)
        recorded = sub is not None and sub.runpod_job_id == event.run_id
        if applied.refused:
            reason = f"the run's id could not be recorded: {applied.reason}"
            unknown = OutcomeUnknown(attempt=event.attempt, reason=reason)
            await self._write_once(claim, unknown)
        elif not recorded:
            # The submission is gone, or belongs to another run.
            log.info("job.run_not_wanted", run_id=event.run_id)
            endpoint_id = self._runpod.endpoint_id
            await self._effects.cancel_run(event.run_id, endpoint_id, job_id=claim.job.id)
        else:
            log.info("job.submitted", run_id=event.run_id)

    async def _write_once(self, claim: Claim, event: Event) -> None:
        """Write the end of a claim; if that fails, the lease expires."""
        try:
            applied = await self._updater.apply_one(claim.case, event)
        except StoreUnavailable as error:
            log.warning("claim.release_failed", reason=error.message)
        else:
            if applied.reason is not None:
                log.warning("claim.release_failed", reason=applied.reason)
