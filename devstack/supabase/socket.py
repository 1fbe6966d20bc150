"""One Realtime connection and its channels, from join to close, as in Phoenix."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from psycopg import Error, OperationalError
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from devstack.supabase.bindings import Binding, BindingInvalid
from devstack.supabase.channel import PREFIX, Channel, JoinRefused, opened, verified
from devstack.supabase.frames import Frame, decode
from devstack.supabase.tokens import Keys

RETRY_SECONDS = 0.5


class Hub(Protocol):
    """What a connection needs from its server."""

    keys: Keys
    flowing: asyncio.Event
    idle_seconds: float
    error_delay: float
    system_delay: float
    refuse_joins: str | None

    async def subscribe(self, bindings: tuple[Binding, ...], role: str) -> None: ...

    def broadcast(self, sender: Socket, channel: Channel, payload: dict[str, object]) -> None: ...


class Socket:
    """Reads and answers frames, and sends the messages of the server."""

    def __init__(self, hub: Hub, websocket: WebSocket, token: str, version: str) -> None:
        self._hub = hub
        self._websocket = websocket
        self._token = token
        self._version = version
        self._outbox: asyncio.Queue[Frame] = asyncio.Queue()
        self._tasks: asyncio.TaskGroup
        self.channels: dict[str, Channel] = {}

    async def run(self) -> None:
        """Serve until either side closes."""
        async with asyncio.TaskGroup() as self._tasks:
            writer = self._tasks.create_task(self._write())
            try:
                await self._read()
            finally:
                writer.cancel()
                for channel in list(self.channels.values()):
                    self._forget(channel)

    def send(self, frame: Frame) -> None:
        self._outbox.put_nowait(frame)

    async def close(self, code: int) -> None:
        """Close from the server's side."""
        if self._websocket.application_state is WebSocketState.CONNECTED:
            await self._websocket.close(code)

    def abort(self) -> None:
        """Cut the connection without a close frame, as a crash does."""
        transport = self._websocket.scope["transport"]
        if transport is not None:
            transport.abort()

    def fail(self, channel: Channel, message: str) -> None:
        """End a channel with a fatal error."""
        self._system(channel, "system", "error", message)
        self._close_channel(channel)

    def report(self, channel: Channel, message: str) -> None:
        """Report that changes do not flow; the channel stays joined."""
        channel.bindings = ()
        self._system(channel, "postgres_changes", "error", message)

    async def _write(self) -> None:
        while True:
            frame = await self._outbox.get()
            await self._hub.flowing.wait()
            try:
                await self._websocket.send_text(frame.encode(self._version))
            except (WebSocketDisconnect, RuntimeError):
                return

    async def _read(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._hub.idle_seconds):
                    message = await self._websocket.receive()
            except TimeoutError:
                await self.close(1000)
                return
            if message["type"] == "websocket.disconnect":
                return
            await self._hub.flowing.wait()
            text, data = message.get("text"), message.get("bytes")
            try:
                frame = decode(text if text is not None else data or b"", self._version)
            except (ValueError, IndexError):
                continue
            await self._handle(frame)

    async def _handle(self, frame: Frame) -> None:
        if frame.topic == "phoenix":
            self._reply(frame, "ok", {})
        elif frame.event == "phx_join":
            await self._join(frame)
        elif frame.event == "phx_leave":
            self._reply(frame, "ok", {})
            if channel := self.channels.get(frame.topic):
                self._close_channel(channel)
        elif (channel := self.channels.get(frame.topic)) is None:
            self._reply(frame, "error", {"reason": "unmatched topic"})
        elif frame.event == "access_token":
            self._new_token(channel, frame.payload.get("access_token"))
        elif frame.event == "broadcast":
            self._hub.broadcast(self, channel, frame.payload)
            if channel.acknowledges:
                self._reply(frame, "ok", {})
        else:
            reason = f"{frame.event} is not part of this local stand-in"
            self._reply(frame, "error", {"reason": reason})

    async def _join(self, frame: Frame) -> None:
        if not frame.topic.startswith(PREFIX):
            self._reply(frame, "error", {"reason": "unmatched topic"})
            return
        given = frame.payload.get("user_token") or frame.payload.get("access_token")
        # A project key is not a token: use the token of the connection.
        usable = isinstance(given, str) and not given.startswith("sb_")
        token = str(given) if usable else self._token
        try:
            if frame.topic == PREFIX:
                raise JoinRefused("TopicNameRequired: You must provide a topic name")
            if self._hub.refuse_joins:
                raise JoinRefused(self._hub.refuse_joins)
            caller = verified(self._hub.keys, token)
        except JoinRefused as error:
            # The real server also waits here, and delays its other replies.
            await asyncio.sleep(self._hub.error_delay)
            self._reply(frame, "error", {"reason": str(error)})
            return
        channel, echo = opened(frame, caller, token)
        old = self.channels.get(frame.topic)
        if old is not None:
            self._forget(old)
        self.channels[frame.topic] = channel
        self._reply(frame, "ok", {"postgres_changes": echo})
        if old is not None:
            self._say_closed(old)
        self._start(channel)

    def _start(self, channel: Channel) -> None:
        """Subscribe in the background, and end the channel when its token expires."""
        for task in channel.tasks:
            task.cancel()
        work: list[Callable[[Channel], Coroutine[Any, Any, None]]] = [self._expire]
        if channel.requested:
            work.append(self._subscribe)
        channel.tasks = [self._tasks.create_task(part(channel)) for part in work]

    async def _subscribe(self, channel: Channel) -> None:
        await asyncio.sleep(self._hub.system_delay)
        while True:
            try:
                await self._hub.subscribe(channel.requested, channel.caller.role)
            except BindingInvalid as error:
                # One invalid binding stops the whole channel.
                self.report(channel, str(error))
                return
            except OperationalError:
                await asyncio.sleep(RETRY_SECONDS)
            except Error as error:
                self.report(channel, f"Unable to subscribe to changes: {error}")
                return
            else:
                channel.bindings = channel.requested
                self._system(channel, "postgres_changes", "ok", "Subscribed to PostgreSQL")
                return

    async def _expire(self, channel: Channel) -> None:
        expires = float(str(channel.caller.claims["exp"]))
        await asyncio.sleep(max(0.0, expires - time.time()))
        late = max(0, int(time.time() - expires))
        self.fail(channel, f"Token has expired {late} seconds ago")

    def _new_token(self, channel: Channel, token: object) -> None:
        if not isinstance(token, str) or token.startswith("sb_") or token == channel.token:
            return
        try:
            channel.caller = verified(self._hub.keys, token)
        except JoinRefused as error:
            code, _, words = str(error).partition(": ")
            self.fail(channel, ":signature_error" if code == "JwtSignatureError" else words)
            return
        channel.token = token
        self._start(channel)

    def _close_channel(self, channel: Channel) -> None:
        self._forget(channel)
        self._say_closed(channel)

    def _say_closed(self, channel: Channel) -> None:
        reference = channel.join_ref
        self.send(Frame(topic=channel.topic, event="phx_close", ref=reference, join_ref=reference))

    def _forget(self, channel: Channel) -> None:
        for task in channel.tasks:
            if task is not asyncio.current_task():
                task.cancel()
        channel.bindings = ()
        if self.channels.get(channel.topic) is channel:
            del self.channels[channel.topic]

    def _reply(self, frame: Frame, status: str, response: dict[str, object]) -> None:
        self.send(
            Frame(
                topic=frame.topic,
                event="phx_reply",
                payload={"status": status, "response": response},
                ref=frame.ref,
                join_ref=frame.join_ref,
            )
        )

    def _system(self, channel: Channel, extension: str, status: str, message: str) -> None:
        payload: dict[str, object] = {
            "channel": channel.name,
            "extension": extension,
            "message": message,
            "status": status,
        }
        self.send(
            Frame(topic=channel.topic, event="system", payload=payload, join_ref=channel.join_ref)
        )
