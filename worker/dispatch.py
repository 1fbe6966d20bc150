"""The way out: a claimed row is checked, planned, recorded as submission and sent to RunPod."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from worker.board import Board
from worker.core.breaker import Breaker
from worker.core.errors import (
    InputUnavailable,
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
from worker.core.guard import Template
from worker.core.job import Job, JobStatus
from worker.core.plan import Plan, Wishes, make_plan
from worker.core.policy import PlanPolicy
from worker.core.workflow import build_body
from worker.metrics import METRICS
from worker.ports import (
    Beginning,
    ClaimEnding,
    ClaimLimits,
    JobStore,
    Media,
    PublishedInputs,
    RunPod,
)

log = structlog.get_logger(__name__)

INPUT_TRIES = 3
# How long a job waits for our own Storage before its file counts as unreachable.
OWN_STORAGE_PATIENCE = 3600.0
LONGEST_INPUT_WAIT = 30.0
AWAY_SECONDS = 2.0
# Half an hour of an absent table: what is known of a POST is worth keeping that long.
SETTLE_TRIES = 900
# A row that could not be sent for reasons of ours; else it would be downloaded over and over.
UNSENT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchPolicy:
    """What the settings say about claiming and submitting; seconds."""

    limits: ClaimLimits
    max_submissions: int
    lease_seconds: float
    at_once: int = 12
    own_addresses: tuple[str, ...] = ("storage://",)
    input_retry_seconds: float = 2.0
    knobs: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class _Claim:
    """One row in hand. `posting`: POST /run may be under way, so it must not be interrupted."""

    job: Job
    task: asyncio.Task[None] | None = None
    begun: bool = False
    unwanted: bool = False
    posting: bool = False
    began: float = field(default=0.0)

    def let_go(self) -> None:
        """Stop the work; a task that has not begun could not clean up if it were cancelled."""
        self.unwanted = True
        if self.begun and self.task is not None:
            self.task.cancel()


class Dispatcher:
    """Takes rows and brings them to RunPod; owns the breaker that pauses submissions."""

    def __init__(
        self,
        *,
        store: JobStore,
        runpod: RunPod,
        media: Media,
        template: Template,
        plan_policy: PlanPolicy,
        policy: DispatchPolicy,
        board: Board,
        webhook_url: Callable[[str, int], str | None],
        on_submitted: Callable[[str, int, str, str], None],
        boot_time: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        draw_seed: Callable[[], int] = lambda: random.randint(1, 999_999),
    ) -> None:
        self.breaker = Breaker()
        self.working: dict[str, _Claim] = {}
        self.freed: Callable[[], None] = lambda: None
        self.claimed: Callable[[Job], None] = lambda job: None
        self._store = store
        self._runpod = runpod
        self._media = media
        self._template = template
        self._plan_policy = plan_policy
        self._policy = policy
        self._board = board
        self._webhook_url = webhook_url
        self._on_submitted = on_submitted
        # Counts the time that a suspended machine was away, unlike time.monotonic.
        self._boot_time = boot_time
        self._draw_seed = draw_seed
        self._stopping = False

    async def tick(self, tasks: asyncio.TaskGroup) -> float | None:
        """Claim what there is room for; returns seconds until it makes sense to look again."""
        if self._stopping:
            return None
        await self._probe()
        want = self._policy.at_once - len(self.working)
        if self.breaker.room is not None:
            want = min(want, self.breaker.room - len(self.working))
        if want > 0:
            held = list(self.working)
            for job in await self._store.claim(want, self._policy.limits, holding=held):
                if self._told_to_stop():  # while the claim was under way
                    await self._end(job, ClaimEnding(status="queued"))
                else:
                    self._start(job, tasks)
        return self.breaker.seconds_to_probe(self._boot_time())

    def _told_to_stop(self) -> bool:
        return self._stopping

    def _start(self, job: Job, tasks: asyncio.TaskGroup) -> None:
        claim = _Claim(job=job, began=self._boot_time())
        # Its lease ran out while the table was away, and it came back to us.
        if (former := self.working.get(job.id)) is not None and not former.posting:
            former.let_go()
        self.working[job.id] = claim
        claim.task = tasks.create_task(self._work(claim), name=f"dispatch-{job.id}")
        METRICS.claims.inc()
        self.claimed(job)

    async def renew(self) -> None:
        """Renew the leases of rows in hand; let go of those that are lost or cancelled."""
        held = [claim for claim in self.working.values() if claim.job.id]
        if not held:
            return
        renewed = {job.id: job for job in await self._store.renew([one.job.id for one in held])}
        for claim in held:
            row = renewed.get(claim.job.id)
            lost = row is None or row.attempt != claim.job.attempt
            if (lost or (row is not None and row.cancel_requested)) and not claim.posting:
                log.info("job.let_go", job_id=claim.job.id, attempt=claim.job.attempt, lost=lost)
                claim.let_go()

    async def stop(self, seconds: float) -> None:
        """Claim nothing more; give back what has not been sent, wait for what is being sent."""
        self._stopping = True
        tasks = []
        for claim in self.working.values():
            if claim.task is not None:
                tasks.append(claim.task)
                if not claim.posting:
                    claim.let_go()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    async def _probe(self) -> None:
        if not self.breaker.probe_due(self._boot_time()):
            return
        try:
            await self._runpod.health()
        except OperatorFault as error:
            self._trip(error.message, operator=True)
        except TransientError as error:
            self._trip(error.message, wait=error.retry_in)
        else:
            self.breaker.probed(self._boot_time(), None)
            METRICS.breaker_open.set(0)
            if self.breaker.operator:
                # /health also answers an account without credit: only a job can tell.
                reason = f"{self.breaker.reason} /health answers; the next job will tell."
                self._board.note("runpod", reason)
            else:
                self._board.clear("runpod")
            log.info("runpod.probed", result="answers again")

    def _trip(self, reason: str, *, operator: bool = False, wait: float | None = None) -> None:
        self.breaker.trip(
            self._boot_time(), reason, operator=operator, wait=wait, jitter=random.random()
        )
        METRICS.breaker_open.set(1)
        severity = "down" if operator else "degraded"
        if self._board.note("runpod", reason, severity=severity):  # type: ignore[arg-type]
            log.warning("runpod.paused", reason=reason, operator=operator)

    def _untrip(self) -> None:
        self.breaker.succeeded()
        METRICS.breaker_open.set(0)
        if self._board.clear("runpod"):
            log.info("runpod.resumed")

    async def _work(self, claim: _Claim) -> None:
        job = claim.job
        with structlog.contextvars.bound_contextvars(job_id=job.id, attempt=job.attempt):
            try:
                claim.begun = True
                if not claim.unwanted:
                    await self._prepare(claim)
                else:
                    await self._end(job, ClaimEnding(status="queued"))
            except asyncio.CancelledError:
                # Cancelled by us: the row goes back, and the task ends as if it had finished.
                await self._end(job, self._broken_off(claim, ClaimEnding(status="queued")))
            except JobFailed as error:
                log.info("job.failed", code=error.code, reason=error.message)
                await self._end(job, _failed(error.code, error.message))
            except (StoreUnavailable, StoreRefused) as error:
                # Nothing was sent. If the table is away for this, too, the lease runs out.
                log.warning("job.abandoned", reason=error.message)
                await self._end(job, ClaimEnding(status="queued", retry_seconds=UNSENT_SECONDS))
            except TransientError as error:
                log.info("job.given_back", reason=error.message)
                ending = ClaimEnding(
                    status="queued",
                    phase_detail=f"Waiting: {error.message}"[:300],
                    retry_seconds=error.retry_in or UNSENT_SECONDS,
                )
                await self._end(job, self._broken_off(claim, ending))
            except Exception:  # one odd row must not end the process for all
                log.exception("job.internal_error")
                text = "The worker met an error of its own with this job. Try it again; the "
                text += "operator finds the cause in the worker's log."
                await self._end(job, self._broken_off(claim, _failed("internal_error", text)))
            finally:
                if self.working.get(job.id) is claim:
                    del self.working[job.id]
                self.freed()

    async def _prepare(self, claim: _Claim) -> None:
        job = claim.job
        if job.submissions >= self._policy.max_submissions:
            raise JobFailed(
                "too_many_submissions",
                f"The job was submitted {job.submissions} times, which is all that is permitted.",
            )
        for tries_left in reversed(range(INPUT_TRIES)):
            try:
                async with self._media.open(
                    image_url=job.image_url, audio_url=job.audio_url, user_id=job.user_id
                ) as opened:
                    plan = make_plan(
                        wishes=_wishes(job),
                        audio=opened.audio,
                        image=opened.image,
                        template=self._template,
                        policy=self._plan_policy,
                        seed=self._draw_seed,
                    )
                    inputs = await self._media.publish(
                        opened,
                        plan,
                        job_id=job.id,
                        attempt=job.attempt,
                        ttl_seconds=plan.ttl_seconds,
                    )
                self._board.clear("storage")
                break
            except InputUnavailable as error:
                if self._at_our_own(job, error):
                    self._board.note("storage", error.message)
                    raise TransientError(error.message, retry_in=UNSENT_SECONDS) from error
                if not tries_left or error.slow:
                    raise JobFailed(error.code, error.message) from error
                wait = self._policy.input_retry_seconds * (INPUT_TRIES - tries_left) ** 2
                await asyncio.sleep(min(error.retry_in or wait, LONGEST_INPUT_WAIT))
        sent: bool | None = None
        try:
            sent = await self._submit(claim, plan, inputs)
        finally:
            # Without a word of the POST a run may be reading them.
            if sent is False or not claim.posting:
                await self._discard(inputs)

    def _at_our_own(self, job: Job, error: InputUnavailable) -> bool:
        """Whether our own Storage is away: the user's file may be fine, so the job waits."""
        address = job.image_url if error.code.startswith("image") else job.audio_url
        ours = (address or "").strip().startswith(self._policy.own_addresses)
        return ours and (job.waited or 0.0) < OWN_STORAGE_PATIENCE

    def _broken_off(self, claim: _Claim, ending: ClaimEnding) -> ClaimEnding:
        """How a claim ends whose work broke off: with a POST under way its outcome is unknown."""
        if not claim.posting:
            return ending
        self.breaker.unused()
        return _unknown("the work broke off while POST /run was under way")

    async def _discard(self, inputs: PublishedInputs) -> None:
        try:
            if inputs.objects:
                await self._media.discard(inputs.objects)
        except (StoreUnavailable, StoreRefused) as error:
            log.warning("inputs.not_discarded", reason=error.message)

    async def _submit(self, claim: _Claim, plan: Plan, inputs: PublishedInputs) -> bool:
        """Returns whether a run may exist that reads the inputs."""
        job = claim.job
        body = build_body(
            self._template,
            plan,
            job_id=job.id,
            image_url=inputs.image_url,
            audio_url=inputs.audio_url,
            webhook=self._webhook_url(job.id, job.attempt),
        )
        if not self.breaker.allow():
            await self._end(job, ClaimEnding(status="queued"))
            return False
        claim.posting = True
        began = self._boot_time()
        beginning = Beginning(
            max_submissions=self._policy.max_submissions,
            endpoint_id=self._runpod.endpoint_id,
            ttl_seconds=plan.ttl_seconds,
            template_hash=self._template.sha256,
            plan=plan.as_json(),
            columns=plan.as_row(),
            input_objects=inputs.objects,
        )
        try:
            begun = await self._store.begin(job, beginning)
        except (StoreUnavailable, StoreRefused) as error:
            self.breaker.unused()
            # It may have been committed all the same; but we know that nothing was sent.
            await self._settle(job, _refused(f"not sent: {error.message}", UNSENT_SECONDS))
            claim.posting = False
            raise
        if begun is None:
            self.breaker.unused()
            log.info("job.claim_lost")
            await self._end(job, ClaimEnding(status="queued", retry_seconds=5.0))
            return False
        # A machine that slept here may wake when the lease is long over and another has the row.
        if self._boot_time() - began > self._policy.lease_seconds / 2:
            self.breaker.unused()
            await self._end(job, _refused("the lease was too old to send", UNSENT_SECONDS))
            return False
        return await self._post(claim, body)

    async def _post(self, claim: _Claim, body: dict[str, object]) -> bool:
        job = claim.job
        try:
            update = await self._runpod.submit(body)
        except RunPodRateLimited as error:
            self._trip(error.message, wait=error.retry_in)
            await self._settle(job, _refused(error.message, error.retry_in or 10.0))
        except RunPodUnavailable as error:
            self._trip(error.message)
            await self._settle(job, _refused(error.message, 0.0))
        except OperatorFault as error:
            self._trip(error.message, operator=True)
            await self._settle(job, _refused(error.message, 0.0))
        except RunRefused as error:
            self._untrip()
            log.info("job.refused", status=error.status, reason=error.message)
            await self._settle(job, _failed("run_refused", error.message, submission="refused"))
        except SubmissionUnknown as error:
            self._trip(error.message)
            METRICS.submissions.labels("unknown").inc()
            log.warning("job.submission_unknown", reason=error.message)
            await self._settle(job, _unknown(error.message))
            return True
        else:
            self._untrip()
            METRICS.submissions.labels("accepted").inc()
            METRICS.claim_to_submit.observe(max(0.0, self._boot_time() - claim.began))
            await self._record(job, update.run_id)
            return True
        METRICS.submissions.labels("refused").inc()
        return False

    async def _record(self, job: Job, run_id: str) -> None:
        # From here on the run is watched, even if the table is away longer than its result lives.
        self._on_submitted(job.id, job.attempt, self._runpod.endpoint_id, run_id)
        while True:
            try:
                recorded = await self._store.record(job.id, job.attempt, run_id)
                break
            except StoreUnavailable as error:
                log.warning("job.run_not_recorded_yet", run_id=run_id, reason=error.message)
                await asyncio.sleep(AWAY_SECONDS)
        if recorded is not None and recorded.wanted:
            log.info("job.submitted", run_id=run_id)
            return
        log.info("job.run_not_wanted", run_id=run_id)
        try:
            await self._runpod.cancel(run_id)
        except (RunGone, OperatorFault, TransientError) as error:
            log.warning("run.cancel_failed", run_id=run_id, reason=error.message)

    async def _settle(self, job: Job, ending: ClaimEnding) -> None:
        """Write what is known of the POST; without it, the expired lease makes it unknown."""
        for _ in range(SETTLE_TRIES):
            try:
                _count_end(await self._store.end_claim(job, ending), ending)
                return
            except StoreUnavailable:
                await asyncio.sleep(AWAY_SECONDS)

    async def _end(self, job: Job, ending: ClaimEnding) -> None:
        try:
            _count_end(await self._store.end_claim(job, ending), ending)
        except (StoreUnavailable, StoreRefused) as error:
            log.warning("job.left_to_its_lease", reason=error.message)


def _count_end(row: Job | None, ending: ClaimEnding) -> None:
    if row is not None and row.status.terminal:
        code = ending.error_code if row.status is JobStatus.FAILED else None
        METRICS.jobs_ended.labels(row.status.value, code or "").inc()
        log.info("job.ended", outcome=row.status.value, code=code)


def _wishes(job: Job) -> Wishes:
    return Wishes(
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


def _failed(code: str, message: str, *, submission: str | None = None) -> ClaimEnding:
    return ClaimEnding(
        status="failed",
        phase="done",
        error_code=code,
        error_message=message[:1000],
        submission=submission,
        raw_error=message[:2000] if submission else None,
    )


def _unknown(why: str) -> ClaimEnding:
    return ClaimEnding(
        status="preparing",
        phase="confirming_submission",
        submission="unknown",
        raw_error=why[:2000],
    )


def _refused(why: str, retry_seconds: float) -> ClaimEnding:
    return ClaimEnding(
        status="queued",
        phase="in_line",
        retry_seconds=retry_seconds,
        submission="refused",
        raw_error=why[:2000],
    )
