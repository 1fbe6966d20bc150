"""The worker's Realtime channel: a topic that nobody can guess, deaf to other clients."""

from __future__ import annotations

import secrets

from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
from realtime.message import (
    BroadcastMessage,
    PresenceDiffMessage,
    PresenceStateMessage,
    ServerMessage,
)

_FROM_CLIENTS = (BroadcastMessage, PresenceStateMessage, PresenceDiffMessage)


class JobsChannel(AsyncRealtimeChannel):
    """Receives changes, `system` messages and the server's answers, and nothing from clients.

    Anyone with the anon key may send broadcasts and presence to any public topic. The library
    keeps presence in memory, and one without the expected keys would end its reading task.
    """

    def __init__(self, client: AsyncRealtimeClient, table: str, *, private: bool) -> None:
        """Register with the client, under a name that no other session has.

        The name keeps out what is stopped nowhere else: a frame over 1 MiB, which ends the socket.
        `private` is for projects that refuse public channels (`PrivateOnly`). It is no protection
        by itself: the project's policies on `realtime.messages` decide who may send there.
        """
        super().__init__(
            client,
            f"realtime:{table}-worker-{secrets.token_hex(16)}",
            {
                "config": {
                    "broadcast": {"ack": False, "self": False},
                    "presence": {"key": "", "enabled": False},
                    "private": private,
                }
            },
        )
        client.channels[self.topic] = self

    def _handle_message(self, message: ServerMessage) -> None:
        if not isinstance(message, _FROM_CLIENTS):
            super()._handle_message(message)
