"""The HTTP server's connections: how many there may be, and how long each may take.

Uvicorn has no limit on the time until a request has arrived, and its `limit_concurrency` counts
silent connections and then answers nobody. So a connection beyond the limit replaces a silent one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What the peers of the HTTP server may use.

    `most` connections are open at a time, `backlog` more wait to be accepted. A request, head and
    body, must have arrived within `request_seconds` of the connection or of the answer before it,
    and must be answered, and the answer read, within `answer_seconds` more. Its head has at most
    `head_bytes`.
    """

    most: int = 256
    backlog: int = 128
    head_bytes: int = 16 * 1024
    request_seconds: float = 15.0
    answer_seconds: float = 120.0


LIMITS = ConnectionLimits()
# Gives each time that a connection begins to wait for a request a number of its own.
_TURNS = itertools.count()


class LimitedProtocol(H11Protocol):
    """One connection; it is ended when its time is over or others need its place."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Start the time for the first request, and make room if there are too many."""
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._expect_request()
        if len(self.connections) > LIMITS.most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time limit."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Start the time for the next request."""
        self._expect_request()
        super().on_response_complete()

    @property
    def silent(self) -> bool:
        """Whether the peer has not sent a whole request that is still to be answered."""
        cycle: Any = self.cycle  # None before the first request
        return cycle is None or cycle.response_complete or cycle.more_body

    def end(self) -> None:
        """Close the connection without waiting for the peer."""
        self.connections.discard(self)
        self.transport.abort()

    def _expect_request(self) -> None:
        self._cancel_deadline()
        self._turn = next(_TURNS)
        self._deadline = self.loop.call_later(LIMITS.request_seconds, self._request_is_due)

    def _request_is_due(self) -> None:
        if self.silent:
            self.end()
        else:
            self._deadline = self.loop.call_later(LIMITS.answer_seconds, self.end)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _make_room(self) -> None:
        """End the oldest silent connection of the address that has most of them.

        Behind a proxy all have its address, and the oldest goes.
        """
        silent = [peer for peer in self.connections if isinstance(peer, LimitedProtocol)]
        silent = [peer for peer in silent if peer.silent]
        held = Counter(peer._address for peer in silent)
        min(silent, key=lambda peer: (-held[peer._address], peer._turn)).end()

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""
