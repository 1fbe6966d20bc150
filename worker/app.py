"""The composition root: builds clients, adapters and loops, and owns the process' lifetime."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import structlog
import uvicorn

from worker import __version__
from worker.adapters.fetch import Fetcher
from worker.adapters.files import workflow_file
from worker.adapters.inputs import InputDesk, InputPolicy
from worker.adapters.realtime import RealtimeDoorbell, Ring
from worker.adapters.runpod import RunPodApi
from worker.adapters.storage import StorageApi
from worker.adapters.store import TIMEOUT, SupabaseStore, connect
from worker.board import Board
from worker.core.change import Limits
from worker.core.errors import TransientError, WorkflowInvalid
from worker.core.guard import Template, load_template
from worker.core.job import Job
from worker.dispatch import Dispatcher, DispatchPolicy
from worker.loop import Heartbeats, Wakeup, every
from worker.metrics import METRICS
from worker.ports import ClaimLimits
from worker.reconcile import Reconciler
from worker.settings import Settings
from worker.watchdog import Watchdog, measure_lag
from worker.web import Web, webhook_url

log = structlog.get_logger(__name__)

SUBMIT_SECONDS = 45.0
# To give back or finish what is in hand; then for the last answers and for loops in a tick. What
# still waits for others after that is broken off: the next process finds all of it in the table.
STOP_SECONDS = 15.0
GOODBYE_SECONDS = 4.0
BELL_SECONDS = 3.0
SLOWEST_TICK = 120.0
HOUR = 3600.0


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handling: the application decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def read_template(settings: Settings) -> Template:
    """Read and check the workflow template; WorkflowInvalid lists every problem."""
    path = workflow_file(settings.workflow_path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WorkflowInvalid([f"{path} cannot be read: {error.strerror}."]) from error
    return load_template(data, deviations=settings.workflow_deviations)


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((settings.host, settings.port))
    return server


class App:
    """Everything that runs, wired once."""

    def __init__(self, settings: Settings, template: Template, http: httpx.AsyncClient) -> None:
        self.settings = settings
        self.template = template
        # Names this process on its leases.
        self.owner = str(uuid.uuid4())
        self.board = Board()
        self.beats = Heartbeats()
        self.stop = asyncio.Event()
        self.draining = asyncio.Event()
        self._http = http
        self._dispatch_wakeup = Wakeup()
        self._reconcile_wakeup = Wakeup()
        self._renew_wakeup = Wakeup()
        self._sweep_wakeup = Wakeup()
        self._rung: OrderedDict[str, None] = OrderedDict()
        self.runpod = RunPodApi(
            endpoint_url=settings.runpod_endpoint_url,
            api_key=settings.runpod_api_key.get_secret_value(),
            submit_seconds=SUBMIT_SECONDS,
        )
        key = settings.supabase_service_role_key.get_secret_value()
        self.desk = InputDesk(
            policy=InputPolicy(
                max_image_bytes=settings.max_image_bytes,
                max_audio_bytes=settings.max_audio_bytes,
                max_image_pixels=settings.max_image_pixels,
                input_buckets=frozenset(settings.input_buckets),
                media_bucket=settings.media_bucket or None,
                image_fit=settings.image_fit,
            ),
            fetcher=Fetcher(allow_private_hosts=settings.input_allow_private_hosts),
            storage=StorageApi(url=settings.supabase_url, key=key, client=http),
        )
        self.doorbell = RealtimeDoorbell(
            url=settings.supabase_url, key=key, on_ring=self._on_ring, on_ready=self._on_ready
        )

    async def wire(self) -> None:
        """Build what needs the running event loop."""
        settings = self.settings
        client = await connect(
            settings.supabase_url,
            settings.supabase_service_role_key.get_secret_value(),
            self._http,
        )
        self.store = SupabaseStore(
            client,
            owner=self.owner,
            lease_seconds=settings.lease_seconds,
            poll_seconds=settings.poll_seconds,
            endpoint_id=self.runpod.endpoint_id,
        )
        self.reconciler = Reconciler(
            store=self.store,
            runpod=self.runpod,
            media=self.desk,
            limits=_limits(settings),
            exclusive=settings.endpoint_exclusive,
        )
        secrets = [one.get_secret_value() for one in settings.webhook_secret]
        self.dispatcher = Dispatcher(
            store=self.store,
            runpod=self.runpod,
            media=self.desk,
            template=self.template,
            plan_policy=settings.plan_policy,
            policy=_dispatch_policy(settings),
            board=self.board,
            webhook_url=lambda job_id, attempt: webhook_url(
                settings.public_url, secrets, job_id, attempt
            ),
            on_submitted=self.reconciler.hold,
        )
        self.dispatcher.freed = self._dispatch_wakeup.set
        self.dispatcher.claimed = self._on_claimed
        self.reconciler.changed = self._dispatch_wakeup.set
        self.web = Web(
            reconciler=self.reconciler,
            board=self.board,
            beats=self.beats,
            secrets=secrets,
            refresh=self._refresh_metrics,
        )

    def _on_ring(self, ring: Ring) -> None:
        if ring.job_id is not None:
            self._rung[ring.job_id] = None
            if len(self._rung) > 10_000:
                self._rung.popitem(last=False)
        if ring.kind in ("insert", "retry"):
            self._dispatch_wakeup.set()
        else:
            self._reconcile_wakeup.set()
            self._renew_wakeup.set()

    def _on_ready(self) -> None:
        self.board.clear("realtime")
        for wakeup in (self._dispatch_wakeup, self._reconcile_wakeup, self._sweep_wakeup):
            wakeup.set()

    def _on_claimed(self, job: Job) -> None:
        """A new row that the sweep found, though its insert should have rung long ago."""
        waited = job.waited
        first = job.attempt == 1 and job.try_number == 1
        if first and waited is not None and waited > BELL_SECONDS and job.id not in self._rung:
            METRICS.doorbell_missed.inc()
            self.doorbell.missed(waited)

    def _refresh_metrics(self) -> None:
        METRICS.realtime_ready.set(self.doorbell.state == "ready")
        age = self.doorbell.last_event_age
        METRICS.realtime_event_age.set(float("nan") if age is None else age)

    async def sweep(self) -> float | None:
        """Take back expired leases, keep the line's places, see whether the doorbell works."""
        recovered = await self.store.recover()
        METRICS.recovered.inc(len(recovered))
        for job in recovered:
            log.info("job.recovered", job_id=job.id, attempt=job.attempt, status=job.status.value)
            if job.status.terminal:
                METRICS.jobs_ended.labels(job.status.value, job.error_code or "").inc()
        await self.store.refresh_queue(100)
        self._dispatch_wakeup.set()
        if self.doorbell.state != "ready":
            reason = "no changes are heard; rows are found by the sweep alone"
            self.board.note("realtime", reason)
        else:
            self.board.clear("realtime")
        METRICS.count_jobs(await self.store.count())
        return None

    async def keep_house(self) -> float | None:
        """Once an hour: forget old history, remove prepared inputs of jobs that are over."""
        await self.store.prune(self.settings.history_keep_days)
        if self.settings.media_bucket:
            kept = timedelta(hours=self.settings.media_retention_hours)
            await self.desk.purge_older_than(datetime.now(UTC) - kept)
        return None

    async def run(self, server_socket: socket.socket) -> None:
        """Run until stopped by a signal; an unexpected error of any part ends all of it."""
        config = uvicorn.Config(
            self.web.app(),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=3,
            timeout_keep_alive=15,
        )
        server = _Server(config)
        watchdog = Watchdog(self.beats)
        watchdog.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(server.serve(sockets=[server_socket]), name="web")
                bell = tasks.create_task(self.doorbell.run(), name="doorbell")
                loops = self._start_loops(tasks)
                await self.draining.wait()
                log.info("app.stopping", in_hand=len(self.dispatcher.working))
                posting = any(claim.posting for claim in self.dispatcher.working.values())
                posted = SUBMIT_SECONDS + 5 - GOODBYE_SECONDS
                await self.dispatcher.stop(posted if posting else STOP_SECONDS)
                self.stop.set()
                self._wake_all()
                server.should_exit = True
                bell.cancel()
                left = list(self.dispatcher.working.values())
                for claim in left:
                    claim.let_go()
                rest = [serving, *loops, *(one.task for one in left if one.task is not None)]
                _, slow = await asyncio.wait(rest, timeout=GOODBYE_SECONDS)
                for task in slow:
                    task.cancel()
        finally:
            watchdog.stop()

    def _start_loops(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        settings = self.settings
        plans = (
            (
                "dispatch",
                lambda: self.dispatcher.tick(tasks),
                settings.sweep_seconds,
                self._dispatch_wakeup,
            ),
            ("reconcile", self.reconciler.tick, settings.sweep_seconds, self._reconcile_wakeup),
            ("sweep", self.sweep, settings.sweep_seconds, self._sweep_wakeup),
            ("lease", self.dispatcher.renew, settings.lease_seconds / 3, self._renew_wakeup),
            ("housekeeping", self.keep_house, HOUR, Wakeup()),
        )
        self._wakeups = [wakeup for *_, wakeup in plans]
        loops = [
            tasks.create_task(
                every(
                    name,
                    tick,
                    seconds=seconds,
                    stop=self.stop,
                    wakeup=wakeup,
                    beats=self.beats,
                    board=self.board,
                    # Thousands of folders are looked through one by one; nothing waits for it.
                    slowest_tick=HOUR if name == "housekeeping" else SLOWEST_TICK,
                ),
                name=name,
            )
            for name, tick, seconds, wakeup in plans
        ]
        return [*loops, tasks.create_task(measure_lag(self.stop, self.beats), name="lag")]

    def _wake_all(self) -> None:
        for wakeup in self._wakeups:
            wakeup.set()


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_submissions=settings.max_submissions,
        queue_deadline=settings.queue_deadline_seconds,
        poll=settings.poll_seconds,
        slow_poll=max(settings.slow_poll_seconds, settings.poll_seconds),
        unknown_wait=settings.submit_unknown_wait_seconds,
        gpu_price_per_second=settings.gpu_price_per_second,
        missing=settings.result_patience_seconds,
        incomplete=settings.result_patience_seconds,
        soon=min(5.0, settings.poll_seconds),
        retry_first=settings.retry_seconds,
    )


def _dispatch_policy(settings: Settings) -> DispatchPolicy:
    return DispatchPolicy(
        limits=ClaimLimits(
            max_in_flight=settings.max_in_flight,
            max_queued_runs=settings.max_queued_runs,
            max_in_flight_per_user=settings.max_in_flight_per_user,
            max_submissions_per_user_per_day=settings.max_submissions_per_user_per_day,
        ),
        max_submissions=settings.max_submissions,
        lease_seconds=settings.lease_seconds,
        own_addresses=("storage://", f"{settings.supabase_url}/"),
    )


@contextlib.asynccontextmanager
async def _clients(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=40, max_keepalive_connections=20)
    headers = {"User-Agent": f"talking-head-worker/{__version__}"}
    async with httpx.AsyncClient(
        timeout=TIMEOUT, limits=limits, headers=headers, follow_redirects=False
    ) as http:
        yield http


async def serve(settings: Settings) -> None:
    """Run the daemon until SIGTERM or SIGINT; raises when a part of it fails unexpectedly."""
    template = read_template(settings)
    with _bind(settings) as server_socket:
        async with _clients(settings) as http:
            app = App(settings, template, http)
            async with app.runpod:
                try:
                    await app.wire()
                    loop = asyncio.get_running_loop()
                    for name in (signal.SIGTERM, signal.SIGINT):
                        loop.add_signal_handler(name, app.draining.set)
                    _announce(settings, template, app.owner)
                    await app.run(server_socket)
                    log.info("app.stopped")
                finally:
                    app.desk.close()


def _announce(settings: Settings, template: Template, owner: str) -> None:
    log.info(
        "app.started",
        version=__version__,
        owner=owner,
        port=settings.port,
        endpoint=settings.runpod_endpoint_id,
        webhooks=settings.webhooks,
        template=template.sha256[:12],
    )
    for note in template.notes:
        log.warning("workflow.note", note=note)
    if not settings.webhooks:
        log.warning(
            "app.polling_only",
            note="PUBLIC_URL or WEBHOOK_SECRET is not set: runs are followed by polling, and a "
            "submission whose answer was lost cannot be adopted; it waits for its time to live.",
        )


def run_daemon(settings: Settings) -> int:
    """The daemon's exit code: 0 after a signal, 1 after a failure."""
    try:
        asyncio.run(serve(settings))
    except OSError as error:
        log.error("app.cannot_listen", port=settings.port, reason=str(error))
        return 1
    except BaseExceptionGroup as group:
        for one in group.exceptions:
            log.critical("app.crashed", exc_info=one)
        return 1
    except TransientError as error:
        log.critical("app.crashed", reason=error.message)
        return 1
    return 0
