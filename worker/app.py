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

from worker import __version__
from worker.dispatch.dispatcher import Dispatcher
from worker.dispatch.gate import Gate
from worker.dispatch.preparation import Preparer
from worker.dispatch.submission import Submitter
from worker.jobs.errors import TransientError
from worker.media.fetch import Fetcher
from worker.media.inputs import InputDesk
from worker.media.storage import StorageApi
from worker.policies import claim_limits, input_policy, own_addresses, read_template, run_limits
from worker.reconcile.reconciler import Reconciler
from worker.runpod.api import RunPodApi
from worker.runtime.loops import Heartbeats
from worker.runtime.metrics import METRICS
from worker.runtime.readiness import Board
from worker.runtime.watchdog import Watchdog
from worker.schedule import Schedule, Wakeups
from worker.settings import Settings
from worker.supabase.realtime import RealtimeListener
from worker.supabase.store import TIMEOUT, SupabaseStore, connect
from worker.web import Web, listen, server_for, webhook_url
from worker.workflow.validation import Template

log = structlog.get_logger(__name__)

SUBMIT_SECONDS = 45.0
# To give back or finish what is in hand; then for the last answers and for loops in a tick. What
# still waits for others after that is broken off: the next process finds all of it in the table.
STOP_SECONDS = 15.0
GOODBYE_SECONDS = 4.0


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
        self._wakeups = Wakeups()
        self.runpod = RunPodApi(
            endpoint_url=settings.runpod_endpoint_url,
            api_key=settings.runpod_api_key.get_secret_value(),
            submit_seconds=SUBMIT_SECONDS,
        )
        key = settings.supabase_service_role_key.get_secret_value()
        self.desk = InputDesk(
            policy=input_policy(settings),
            fetcher=Fetcher(allow_private_hosts=settings.input_allow_private_hosts),
            storage=StorageApi(url=settings.supabase_url, key=key, client=http),
        )
        self.listener = RealtimeListener(
            url=settings.supabase_url, key=key, on_hint=self._wakeups.hear, on_ready=self._on_ready
        )

    async def wire(self) -> None:
        """Build what needs the running event loop."""
        settings = self.settings
        key = settings.supabase_service_role_key.get_secret_value()
        client = await connect(settings.supabase_url, key, self._http)
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
            limits=run_limits(settings),
            exclusive=settings.endpoint_exclusive,
        )
        self.dispatcher = self._way_out()
        self.schedule = Schedule(
            settings,
            store=self.store,
            desk=self.desk,
            listener=self.listener,
            dispatcher=self.dispatcher,
            reconciler=self.reconciler,
            wakeups=self._wakeups,
            board=self.board,
            beats=self.beats,
        )
        self.web = Web(
            reconciler=self.reconciler,
            board=self.board,
            beats=self.beats,
            secrets=self._webhook_secrets(),
            refresh=self._refresh_metrics,
        )

    def _way_out(self) -> Dispatcher:
        settings = self.settings
        secrets = self._webhook_secrets()
        gate = Gate(runpod=self.runpod, board=self.board)
        preparer = Preparer(
            media=self.desk,
            template=self.template,
            policy=settings.plan_policy,
            board=self.board,
            own_addresses=own_addresses(settings),
        )
        submitter = Submitter(
            store=self.store,
            runpod=self.runpod,
            preparer=preparer,
            gate=gate,
            template=self.template,
            max_submissions=settings.max_submissions,
            lease_seconds=settings.lease_seconds,
            webhook_url=lambda job_id, attempt: webhook_url(
                settings.public_url, secrets, job_id, attempt
            ),
            on_submitted=self.reconciler.hold,
        )
        return Dispatcher(
            store=self.store, gate=gate, submitter=submitter, limits=claim_limits(settings)
        )

    def _webhook_secrets(self) -> list[str]:
        return [one.get_secret_value() for one in self.settings.webhook_secret]

    def _on_ready(self) -> None:
        self.board.clear("realtime")
        self._wakeups.look_again()

    def _refresh_metrics(self) -> None:
        METRICS.realtime_ready.set(self.listener.state == "ready")
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
                log.info("app.stopping", in_hand=len(self.dispatcher.working))
                posted = SUBMIT_SECONDS + 5 - GOODBYE_SECONDS
                await self.dispatcher.stop(posted if self.dispatcher.posting else STOP_SECONDS)
                self.stop.set()
                self._wakeups.all()
                server.should_exit = True
                listening.cancel()
                rest = [serving, *loops, *self.dispatcher.break_off()]
                _, slow = await asyncio.wait(rest, timeout=GOODBYE_SECONDS)
                for task in slow:
                    task.cancel()
        finally:
            watchdog.stop()


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
    with listen(settings.host, settings.port) as server_socket:
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
