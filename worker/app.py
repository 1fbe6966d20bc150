"""The composition root: builds every part once, and owns the process' lifetime."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import uuid
from collections.abc import AsyncIterator

import httpx
import structlog
from supabase import AsyncClient

from worker import __version__
from worker.dispatch.dispatcher import Dispatcher
from worker.dispatch.gate import SubmissionGate
from worker.dispatch.preparer import Preparer
from worker.dispatch.submitter import Submitter
from worker.housekeeping import Housekeeper
from worker.jobs.errors import TransientError
from worker.jobs.job import Job
from worker.media.decoders import Decoders
from worker.media.fetch import Fetcher
from worker.media.inputs import InputMedia
from worker.media.storage import StorageApi
from worker.policies import (
    claim_limits,
    decoder_limits,
    input_policy,
    lifecycle_policy,
    own_addresses,
    read_template,
    retention,
    user_limits,
)
from worker.reconcile.effects import EffectRunner
from worker.reconcile.not_accepted import NotAcceptedDetector
from worker.reconcile.poller import Poller
from worker.reconcile.reconciler import Reconciler
from worker.reconcile.tracker import RunTracker
from worker.reconcile.updater import JobUpdater
from worker.runpod.api import SUBMIT_SECONDS, RunPodApi
from worker.runtime.clock import Environment
from worker.runtime.loops import Heartbeats
from worker.runtime.metrics import METRICS
from worker.runtime.readiness import Readiness
from worker.runtime.watchdog import Watchdog
from worker.schedule import Schedule, Wakeups
from worker.settings import Settings
from worker.supabase.realtime import ChangeHint, Pace, RealtimeListener
from worker.supabase.store import TIMEOUT, SupabaseStore, connect
from worker.web import Web, listen, server_for, webhook_url
from worker.workflow.validation import Template

log = structlog.get_logger(__name__)

# To release or finish what is claimed; then for the last answers and for loops in a tick. What
# still waits for others after that is broken off: the next process finds all of it in the table.
STOP_SECONDS = 15.0
GOODBYE_SECONDS = 4.0


class App:
    """Everything that runs, wired once: what a part needs comes in by its constructor."""

    def __init__(
        self,
        settings: Settings,
        template: Template,
        *,
        http: httpx.AsyncClient,
        supabase: AsyncClient,
        runpod: RunPodApi,
        environment: Environment,
    ) -> None:
        # Names this process on its leases.
        self.owner = str(uuid.uuid4())
        self.readiness = Readiness()
        self.beats = Heartbeats(environment.monotonic)
        self.stop = asyncio.Event()
        self.draining = asyncio.Event()
        self.wakeups = Wakeups()
        self._settings = settings
        self._template = template
        self._runpod = runpod
        self._environment = environment
        self._secrets = [secret.get_secret_value() for secret in settings.webhook_secret]
        key = settings.supabase_service_role_key.get_secret_value()
        storage = StorageApi(url=settings.supabase_url, key=key, client=http)
        self.media = InputMedia(
            policy=input_policy(settings),
            fetcher=Fetcher(allow_private_hosts=settings.input_allow_private_hosts),
            storage=storage,
            decoders=Decoders(decoder_limits(settings), readiness=self.readiness),
        )
        self.listener = RealtimeListener(
            url=settings.supabase_url,
            key=key,
            on_hint=self._on_hint,
            on_ready=self._on_realtime_ready,
            pace=Pace.within(settings.sweep_seconds),
            clock=environment.monotonic,
            jitter=environment.jitter,
        )
        self.store = SupabaseStore(
            supabase,
            owner=self.owner,
            lease_seconds=settings.lease_seconds,
            poll_seconds=settings.poll_seconds,
            endpoint_id=runpod.endpoint_id,
        )
        self.tracker = RunTracker(clock=environment.monotonic)
        poller = Poller(
            runpod=runpod,
            tracker=self.tracker,
            readiness=self.readiness,
            clock=environment.monotonic,
            jitter=environment.jitter,
        )
        detector = NotAcceptedDetector(
            runpod=runpod, poller=poller, tracker=self.tracker, clock=environment.monotonic
        )
        self.effects = EffectRunner(
            runpod=runpod, media=self.media, tracker=self.tracker, detector=detector
        )
        policy = lifecycle_policy(settings)
        self.updater = JobUpdater(
            store=self.store,
            policy=policy,
            effects=self.effects,
            jitter=environment.jitter,
            on_change=self.wakeups.dispatch.set,
        )
        self.gate = SubmissionGate(
            runpod=runpod,
            readiness=self.readiness,
            clock=environment.boot_time,
            jitter=environment.jitter,
        )
        self.reconciler = Reconciler(
            store=self.store,
            updater=self.updater,
            poller=poller,
            tracker=self.tracker,
            detector=detector,
            effects=self.effects,
            policy=policy,
            clock=environment.monotonic,
            exclusive=settings.endpoint_exclusive,
            on_adopted=self.gate.record_adopted,
        )
        self.dispatcher = self._dispatcher()
        self.schedule = Schedule(
            settings,
            limits=user_limits(settings),
            store=self.store,
            housekeeper=Housekeeper(
                retention(settings), store=self.store, storage=storage, readiness=self.readiness
            ),
            listener=self.listener,
            dispatcher=self.dispatcher,
            reconciler=self.reconciler,
            wakeups=self.wakeups,
            readiness=self.readiness,
            beats=self.beats,
        )
        self.web = Web(
            reconciler=self.reconciler,
            readiness=self.readiness,
            beats=self.beats,
            secrets=self._secrets,
            refresh=self._refresh_metrics,
        )

    def _dispatcher(self) -> Dispatcher:
        settings, environment = self._settings, self._environment
        preparer = Preparer(
            media=self.media,
            template=self._template,
            policy=settings.plan_policy,
            readiness=self.readiness,
            own_addresses=own_addresses(settings),
            clock=environment.monotonic,
            jitter=environment.jitter,
        )
        submitter = Submitter(
            store=self.store,
            runpod=self._runpod,
            preparer=preparer,
            gate=self.gate,
            updater=self.updater,
            tracker=self.tracker,
            effects=self.effects,
            readiness=self.readiness,
            template=self._template,
            max_submissions=settings.max_submissions,
            limits=claim_limits(settings),
            lease_seconds=settings.lease_seconds,
            webhook_url=lambda job_id, attempt: webhook_url(
                settings.public_url, self._secrets, job_id, attempt
            ),
            clock=environment.boot_time,
            sleep=environment.sleep,
        )
        return Dispatcher(
            store=self.store,
            gate=self.gate,
            submitter=submitter,
            updater=self.updater,
            limits=claim_limits(settings),
            clock=environment.boot_time,
            on_claim=self._on_claim,
            on_room=self.wakeups.dispatch.set,
        )

    def _on_claim(self, job: Job) -> None:
        """Notice a new row that Realtime should have told of."""
        self.listener.claimed(job)
        self.readiness.show("realtime", self.listener.problem)

    def _on_hint(self, hint: ChangeHint) -> None:
        self.readiness.show("realtime", self.listener.problem)
        self.wakeups.hear(hint)

    def _on_realtime_ready(self) -> None:
        self.readiness.show("realtime", self.listener.problem)
        self.wakeups.look_again()

    def _refresh_metrics(self) -> None:
        METRICS.realtime_ready.set(self.listener.state == "ready")
        METRICS.realtime_unheard.set(self.listener.unheard)
        age = self.listener.last_event_age
        METRICS.realtime_event_age.set(float("nan") if age is None else age)

    async def run(self, server_socket: socket.socket) -> None:
        """Run until stopped by a signal; an unexpected error of any part ends all of it."""
        server = server_for(self.web)
        watchdog = Watchdog(self.beats)
        watchdog.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(server.serve(sockets=[server_socket]), name="web")
                listening = tasks.create_task(self.listener.run(), name="realtime")
                loops = self.schedule.start(tasks, self.stop)
                await self.draining.wait()
                log.info("app.stopping", claims=len(self.dispatcher.claims))
                posted = SUBMIT_SECONDS + 5 - GOODBYE_SECONDS
                await self.dispatcher.stop(posted if self.dispatcher.posting else STOP_SECONDS)
                self.stop.set()
                self.wakeups.all()
                server.should_exit = True
                listening.cancel()
                rest = [serving, *loops, *self.dispatcher.break_off()]
                _, slow = await asyncio.wait(rest, timeout=GOODBYE_SECONDS)
                for task in slow:
                    task.cancel()
        finally:
            watchdog.stop()
            self.media.close()


@contextlib.asynccontextmanager
async def _clients(
    settings: Settings,
    environment: Environment,
) -> AsyncIterator[tuple[httpx.AsyncClient, AsyncClient, RunPodApi]]:
    limits = httpx.Limits(max_connections=40, max_keepalive_connections=20)
    headers = {"User-Agent": f"talking-head-worker/{__version__}"}
    runpod = RunPodApi(
        endpoint_url=settings.runpod_endpoint_url,
        api_key=settings.runpod_api_key.get_secret_value(),
        jitter=environment.jitter,
    )
    http = httpx.AsyncClient(
        timeout=TIMEOUT, limits=limits, headers=headers, follow_redirects=False
    )
    async with http, runpod:
        key = settings.supabase_service_role_key.get_secret_value()
        yield http, await connect(settings.supabase_url, key, http), runpod


async def serve(settings: Settings) -> None:
    """Run the daemon until SIGTERM or SIGINT; raises when a part of it fails unexpectedly."""
    template = read_template(settings)
    environment = Environment()
    with listen(settings.host, settings.port) as server_socket:
        async with _clients(settings, environment) as (http, supabase, runpod):
            app = App(
                settings,
                template,
                http=http,
                supabase=supabase,
                runpod=runpod,
                environment=environment,
            )
            loop = asyncio.get_running_loop()
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(name, app.draining.set)
            _announce(settings, template, app.owner)
            await app.run(server_socket)
            log.info("app.stopped")


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
        log.info("workflow.note", note=note)
    if not settings.webhooks:
        # Neither set is a choice; one of two is probably a mistake.
        half = bool(settings.public_url or settings.webhook_secret)
        (log.warning if half else log.info)(
            "app.polling_only",
            note="PUBLIC_URL or WEBHOOK_SECRET is not set: runs are followed by polling, and a "
            "submission whose answer was lost cannot be adopted; it waits for its time to live.",
        )


def run_daemon(settings: Settings) -> int:
    """Return the daemon's exit code: 0 after a signal, 1 after a failure."""
    try:
        asyncio.run(serve(settings))
    except OSError as error:
        log.error("app.cannot_listen", port=settings.port, reason=str(error))
        return 1
    except BaseExceptionGroup as group:
        for part in group.exceptions:
            log.critical("app.crashed", exc_info=part)
        return 1
    except TransientError as error:
        log.critical("app.crashed", reason=error.message)
        return 1
    return 0
