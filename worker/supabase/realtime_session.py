"""One socket to Supabase Realtime, from the handshake until it is closed for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

import structlog
from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
from realtime._async.push import AsyncPush
from realtime.message import SuccessSystemPayload
from realtime.types import (
    ChannelEvents,
    PostgresChangesPayload,
    RealtimeAcknowledgementStatus,
    RealtimePostgresChangesListenEvent,
    RealtimeSubscribeStates,
)

from worker.jobs.text import one_line
from worker.jobs.waiting import IN_LINE
from worker.supabase.realtime_channel import JobsChannel
from worker.supabase.realtime_reason import describe

log = structlog.get_logger(__name__)

_SOCKET_TOPIC = "phoenix"


class HintKind(StrEnum):
    """What happened to a row."""

    INSERT = "insert"
    CANCEL = "cancel"
    RETRY = "retry"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeHint:
    """A hint that a row changed; read the row for the facts. `job_id` is None if unknown."""

    kind: HintKind
    job_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Time limits in seconds; the defaults fit Supabase's servers, tests shorten them."""

    join: int = 10
    # A cold server was seen to take 3 s from the join to its `system` message.
    ready: float = 30.0
    check: float = 1.0
    heartbeat: float = 20.0
    heartbeat_answer: int = 10
    close: float = 2.0
    # Supabase closes connections after 24 h at the latest; close ours earlier.
    recycle: float = 6 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why a session ended; `planned` if nothing was wrong."""

    reason: str
    planned: bool = False
    ready_seconds: float = 0.0


# Not "*": the worker would then receive each progress update that it writes itself.
_BINDINGS = (
    (HintKind.INSERT, RealtimePostgresChangesListenEvent.Insert, None),
    (HintKind.CANCEL, RealtimePostgresChangesListenEvent.Update, "cancel_requested=eq.true"),
    (HintKind.RETRY, RealtimePostgresChangesListenEvent.Update, "status=eq.queued"),
    (HintKind.DELETE, RealtimePostgresChangesListenEvent.Delete, None),
)


_STATES = {
    RealtimeSubscribeStates.CHANNEL_ERROR: "the channel failed",
    RealtimeSubscribeStates.CLOSED: "Realtime closed the channel",
    RealtimeSubscribeStates.TIMED_OUT: "the join was not answered",
}


class Session:
    """One client, one socket, one channel. It never reconnects: its owner makes a new session."""

    def __init__(
        self,
        *,
        url: str,
        key: str,
        table: str,
        private: bool,
        timings: Timings,
        on_hint: Callable[[ChangeHint], None],
        on_ready: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """Prepare the client; the callbacks must not raise, or the library stops reading."""
        self._key = key
        self._table = table
        self._timings = timings
        self._on_hint = on_hint
        self._on_ready = on_ready
        self._clock = clock
        self._ended = asyncio.Event()
        self._ending = Ending(reason="closed")
        self.ready_since: float | None = None
        # No retries inside the library: it gives up, or loses the channel, without telling.
        self._client = AsyncRealtimeClient(
            url, key, auto_reconnect=False, max_retries=1, initial_backoff=1, timeout=timings.join
        )
        self._channel = JobsChannel(self._client, table, private=private)
        # A channel on the socket's own topic, to receive the answers to our heartbeats.
        self._pulse = AsyncRealtimeChannel(self._client, _SOCKET_TOPIC)
        self._client.channels[_SOCKET_TOPIC] = self._pulse
        self._beat: AsyncPush | None = None

    def end(self, reason: str, *, planned: bool = False) -> None:
        """Make `run` return soon; the first reason counts."""
        if not self._ended.is_set():
            self._ending = Ending(reason=one_line(reason.replace(self._key, "[key]"), limit=300))
            if planned:
                self._ending = Ending(reason=reason, planned=True)
            self._ended.set()

    async def run(self) -> Ending:
        """Connect, listen until something is wrong, close; raise nothing but cancellation."""
        self._bind()
        try:
            async with asyncio.timeout(3 * self._timings.join):
                await self._client.connect()
                await self._channel.subscribe(self._on_state)
            await self._watch()
        except Exception as error:  # noqa: BLE001 - the owner starts a new session in any case
            self.end(describe(error))
        finally:
            since, self.ready_since = self.ready_since, None
            await self._close()
        return replace(self._ending, ready_seconds=self._clock() - since if since else 0.0)

    def _bind(self) -> None:
        for kind, event, row_filter in _BINDINGS:
            self._channel.on_postgres_changes(
                event,
                partial(self._on_change, kind),
                table=self._table,
                schema="public",
                filter=row_filter,
            )
        self._channel.on_system(self._on_system)

    def _on_change(self, kind: HintKind, payload: PostgresChangesPayload) -> None:
        # Events with `errors` (too large, not readable) count too: something did change.
        data: Mapping[str, object] = {**payload["data"]}
        if kind is HintKind.RETRY and _only_status_text(data.get("record")):
            return
        job_id = _row_id(data.get("record"), data.get("old_record"))
        self._on_hint(ChangeHint(kind=kind, job_id=job_id))

    def _on_system(self, payload: SuccessSystemPayload) -> None:
        # The reply to the join comes earlier, and rows inserted in between are lost. Only this
        # message says that changes flow from now on.
        if payload.extension == "postgres_changes":
            if self.ready_since is None:
                self.ready_since = self._clock()
            self._on_ready()

    def _on_state(self, state: RealtimeSubscribeStates, error: Exception | None) -> None:
        if state is not RealtimeSubscribeStates.SUBSCRIBED:
            self.end(describe(error) if error else _STATES[state])

    async def _watch(self) -> None:
        started = self._clock()
        next_beat = started
        while not self._ended.is_set():
            now = self._clock()
            if self.ready_since is None and now - started > self._timings.ready:
                self.end(
                    "joined, but Realtime did not confirm the subscription to Postgres changes"
                )
            elif problem := self._problem():
                self.end(problem)
            elif now - started > self._timings.recycle:
                self.end("regular renewal", planned=True)
            elif now >= next_beat:
                next_beat = now + self._timings.heartbeat
                await self._send_heartbeat()
            try:
                async with asyncio.timeout(self._timings.check):
                    await self._ended.wait()
            except TimeoutError:
                continue

    def _problem(self) -> str | None:
        client, channel = self._client, self._channel
        reader = client._listen_task
        if not client.is_connected:
            return "the socket is closed"
        if reader is None or reader.done():
            return "the reading task has ended"
        if client.channels.get(channel.topic) is not channel or not channel.is_joined:
            return f"the channel is {channel.state.value}"
        return None

    async def _send_heartbeat(self) -> None:
        """Send a heartbeat; no answer ends the session. (The library's own do not check that.)"""
        if self._beat is not None and self._beat.timeout_task is not None:
            return
        beat = AsyncPush(
            self._pulse, ChannelEvents.heartbeat, {}, timeout=self._timings.heartbeat_answer
        )
        beat.receive(
            RealtimeAcknowledgementStatus.Timeout, partial(self.end, "a heartbeat was not answered")
        )
        self._beat = beat
        async with asyncio.timeout(self._timings.heartbeat_answer):
            await beat.send()

    async def _close(self) -> None:
        client = self._client
        socket = client._ws_connection
        tasks = [t for t in (client._listen_task, client._heartbeat_task) if t is not None]
        try:
            async with asyncio.timeout(self._timings.close):
                await client.close()
        except Exception as error:  # noqa: BLE001 - the client is dropped in any case
            log.debug("realtime.close_failed", error=type(error).__name__)
        finally:
            for channel in (self._channel, self._pulse):
                channel.rejoin_timer.reset()
                channel.join_push.destroy()
            if self._beat is not None:
                self._beat.destroy()
            if socket is not None:
                socket.transport.abort()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _only_status_text(record: object) -> bool:
    """Return whether only the queue position or the waiting text changed; a retry clears both.

    Without this check every sweep of a worker would wake all of them.
    """
    return isinstance(record, dict) and (
        record.get("queue_position") is not None
        or record.get("phase_detail") not in (None, IN_LINE)
    )


def _row_id(*records: object) -> str | None:
    for record in records:
        if isinstance(record, dict) and isinstance(found := record.get("id"), str):
            return found
    return None
