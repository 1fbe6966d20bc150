"""One socket to Supabase Realtime, from its handshake to its sure end."""

from __future__ import annotations

import asyncio
import time
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
from worker.supabase.realtime_reason import describe

log = structlog.get_logger(__name__)

_SOCKET_TOPIC = "phoenix"


class RingKind(StrEnum):
    """What happened at the table."""

    INSERT = "insert"
    CANCEL = "cancel"
    RETRY = "retry"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """A hint that a row changed; the row itself must be read again. `job_id` None: unknown."""

    kind: RingKind
    job_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds; the defaults fit Supabase's servers, tests shorten them."""

    join: int = 10
    # A cold server was seen to take 3 s from the join to its `system` message.
    ready: float = 30.0
    check: float = 1.0
    heartbeat: float = 20.0
    heartbeat_answer: int = 10
    close: float = 2.0
    # Connections are cut after 24 h at the latest; ours ends before, at a time of its own.
    recycle: float = 6 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why a session is over; `planned` if nothing was wrong."""

    reason: str
    planned: bool = False
    ready_seconds: float = 0.0


# Never "*": the worker would hear each progress update that it writes itself.
_BINDINGS = (
    (RingKind.INSERT, RealtimePostgresChangesListenEvent.Insert, None),
    (RingKind.CANCEL, RealtimePostgresChangesListenEvent.Update, "cancel_requested=eq.true"),
    (RingKind.RETRY, RealtimePostgresChangesListenEvent.Update, "status=eq.queued"),
    (RingKind.DELETE, RealtimePostgresChangesListenEvent.Delete, None),
)


_STATES = {
    RealtimeSubscribeStates.CHANNEL_ERROR: "the channel failed",
    RealtimeSubscribeStates.CLOSED: "Realtime closed the channel",
    RealtimeSubscribeStates.TIMED_OUT: "the join is unanswered",
}


class Session:
    """One client, one socket, one channel; it never repairs itself, its owner builds another."""

    def __init__(
        self,
        *,
        url: str,
        key: str,
        table: str,
        timings: Timings,
        on_ring: Callable[[Ring], None],
        on_ready: Callable[[], None],
    ) -> None:
        """The callbacks must not raise: an exception would kill the library's reading task."""
        self._key = key
        self._table = table
        self._timings = timings
        self._on_ring = on_ring
        self._on_ready = on_ready
        self._ended = asyncio.Event()
        self._ending = Ending(reason="closed")
        self.ready_since: float | None = None
        # Repair inside the library gives up, or loses the channel, without a sign: no retries.
        self._client = AsyncRealtimeClient(
            url, key, auto_reconnect=False, max_retries=1, initial_backoff=1, timeout=timings.join
        )
        self._channel = self._client.channel(f"{table}-worker")
        # A channel on the socket's own topic, so that answers to our heartbeats find us.
        self._pulse = AsyncRealtimeChannel(self._client, _SOCKET_TOPIC)
        self._client.channels[_SOCKET_TOPIC] = self._pulse
        self._beat: AsyncPush | None = None

    def end(self, reason: str, *, planned: bool = False) -> None:
        """Let `run` return soon; the first reason counts."""
        if not self._ended.is_set():
            self._ending = Ending(reason=one_line(reason.replace(self._key, "[key]"), limit=300))
            if planned:
                self._ending = Ending(reason=reason, planned=True)
            self._ended.set()

    async def run(self) -> Ending:
        """Connect, listen until something is wrong, close; raises nothing but cancellation."""
        self._bind()
        try:
            async with asyncio.timeout(3 * self._timings.join):
                await self._client.connect()
                await self._channel.subscribe(self._on_state)
            await self._watch()
        except Exception as error:  # noqa: BLE001 - whatever it is, a new session is the answer
            self.end(describe(error))
        finally:
            since, self.ready_since = self.ready_since, None
            await self._close()
        return replace(self._ending, ready_seconds=time.monotonic() - since if since else 0.0)

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

    def _on_change(self, kind: RingKind, payload: PostgresChangesPayload) -> None:
        # Events with `errors` (too large, not readable) ring as well: something did change.
        data: Mapping[str, object] = {**payload["data"]}
        if kind is RingKind.RETRY and _is_word_of_ours(data.get("record")):
            return
        self._on_ring(Ring(kind=kind, job_id=_row_id(data.get("record"), data.get("old_record"))))

    def _on_system(self, payload: SuccessSystemPayload) -> None:
        # The reply to the join comes earlier, and rows inserted in between are lost: only this
        # message says that changes flow from now on.
        if payload.extension == "postgres_changes":
            if self.ready_since is None:
                self.ready_since = time.monotonic()
            self._on_ready()

    def _on_state(self, state: RealtimeSubscribeStates, error: Exception | None) -> None:
        if state is not RealtimeSubscribeStates.SUBSCRIBED:
            self.end(describe(error) if error else _STATES[state])

    async def _watch(self) -> None:
        started = time.monotonic()
        next_beat = started
        while not self._ended.is_set():
            now = time.monotonic()
            if self.ready_since is None and now - started > self._timings.ready:
                self.end("joined, but Realtime does not say that it listens to Postgres")
            elif problem := self._problem():
                self.end(problem)
            elif now - started > self._timings.recycle:
                self.end("its time is over", planned=True)
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
        """The library sends heartbeats too, but never looks whether they are answered."""
        if self._beat is not None and self._beat.timeout_task is not None:
            return
        beat = AsyncPush(
            self._pulse, ChannelEvents.heartbeat, {}, timeout=self._timings.heartbeat_answer
        )
        beat.receive(
            RealtimeAcknowledgementStatus.Timeout, partial(self.end, "a heartbeat is unanswered")
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
        except Exception as error:  # noqa: BLE001 - it is thrown away in any case
            log.debug("doorbell.close_failed", error=type(error).__name__)
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


def _is_word_of_ours(record: object) -> bool:
    """Whether a waiting row was only told its place or why it waits: a retry clears both.

    Workers with different limits would else answer each other's words without a pause.
    """
    return isinstance(record, dict) and any(
        record.get(name) is not None for name in ("queue_position", "phase_detail")
    )


def _row_id(*records: object) -> str | None:
    for record in records:
        if isinstance(record, dict) and isinstance(found := record.get("id"), str):
            return found
    return None
