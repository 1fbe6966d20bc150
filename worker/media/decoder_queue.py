"""The order in which files get a decoder: fair between users, and costly files apart."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from worker.media.first_look import Kind

QUICK_CPU_SECONDS = 0.75
"""The CPU seconds of a first look: several times what ordinary photos and recordings need."""
LEAST_QUICK_CPU_SECONDS = 0.3
"""The same while very many wait; benchmarks/hostile_files.py prints what ordinary ones need."""
ALL_WAITING_SECONDS = 6.0
"""What all files that wait for a first look may take together, as long as each has its least."""


def first_look_seconds(waiting: int) -> float:
    """Return the CPU seconds of a first look while so many others wait for theirs."""
    share = ALL_WAITING_SECONDS / (waiting + 1)
    return min(QUICK_CPU_SECONDS, max(LEAST_QUICK_CPU_SECONDS, share))


# From the turn served last to that of somebody new; from a user's turn to that of his next file.
# The second is longer, or the next file of a user would tie with the first of others; and both
# move on, or new users without end would go before everybody else's next file.
_STEP, _STEP_OF_THE_SAME = 2, 3
# From so many files on that may start, every second place goes to the newest: with their least
# CPU seconds and the start of new decoders, fewer take less than 10 s in turn.
_CROWD = 24


@dataclass(slots=True, eq=False)
class Client:
    """A job at the decoders; without a user it is a user of its own.

    `costly` are its files that need more than a first look may take. `proven`: one of its files has
    been decoded within a first look. `used` are its CPU seconds so far.
    """

    user: str | None = None
    costly: set[Kind] = field(default_factory=set)
    proven: bool = False
    used: float = 0.0

    @property
    def owner(self) -> object:
        """What shares one turn: the user, or a file without a user."""
        return self if self.user is None else self.user

    @property
    def cheap(self) -> bool:
        """Whether it has shown itself to be an ordinary job, which is done before unknown ones."""
        return self.proven and self.used < LEAST_QUICK_CPU_SECONDS


@dataclass(slots=True, eq=False)
class _Ticket:
    client: Client
    kind: Kind
    costly: bool
    turn: int
    number: int
    started: asyncio.Future[None]


class DecoderQueue:
    """Gives `places` to files.

    With two places or more, one is for costly files, and they never get another one, so that a
    first look waits for first looks only. Of each sort there is one image at a time, for its
    memory. Among those that may start, files of users who have none in work come first, then those
    of cheap jobs, then turns: a user's next file has a turn behind everybody's first one. While
    many may start, every second place goes to the newest instead: an ordinary file then waits for
    few others, however long the line is, and the line still moves.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._waiting: list[_Ticket] = []
        self._working: list[_Ticket] = []
        self._numbers = itertools.count()
        # The turn that was served last, and the last turn of each user that is not behind it.
        self._turn = 0
        self._turns: dict[object, int] = {}
        self._newest_is_next = False

    @property
    def costly_waiting(self) -> int:
        """How many costly files wait for their place."""
        return sum(ticket.costly for ticket in self._waiting)

    @property
    def first_looks_waiting(self) -> int:
        """How many other files wait for a first look."""
        return len(self._waiting) - self.costly_waiting

    @asynccontextmanager
    async def place(self, client: Client, kind: Kind, *, costly: bool) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        turn = max(self._turn + _STEP, self._turns.get(client.owner, 0) + _STEP_OF_THE_SAME)
        self._turns[client.owner] = turn
        ticket = _Ticket(
            client=client,
            kind=kind,
            costly=costly,
            turn=turn,
            number=next(self._numbers),
            started=asyncio.get_running_loop().create_future(),
        )
        self._waiting.append(ticket)
        try:
            self._start()
            await ticket.started
            yield
        finally:
            (self._working if ticket in self._working else self._waiting).remove(ticket)
            self._start()

    def _start(self) -> None:
        """Give every place that may be given."""
        while able := [ticket for ticket in self._waiting if self._may_start(ticket)]:
            self._newest_is_next = len(able) >= _CROWD and not self._newest_is_next
            ticket = min(able, key=self._rank)
            self._waiting.remove(ticket)
            self._working.append(ticket)
            self._turn = max(self._turn, ticket.turn)
            self._turns = {who: turn for who, turn in self._turns.items() if turn >= self._turn}
            ticket.started.set_result(None)

    def _rank(self, ticket: _Ticket) -> tuple[bool, bool, int, int]:
        owner = ticket.client.owner
        busy = any(other.client.owner == owner for other in self._working)
        order = ticket.turn, ticket.number
        if self._newest_is_next:
            ahead = ticket.turn > self._turn + _STEP
            order = int(ahead), -ticket.number
        return busy, not ticket.client.cheap, *order

    def _may_start(self, ticket: _Ticket) -> bool:
        # One whose caller was cancelled a moment ago is about to leave the line.
        if len(self._working) >= self._places or ticket.started.cancelled():
            return False
        like = [other for other in self._working if other.costly == ticket.costly]
        if ticket.kind == "image" and any(other.kind == "image" for other in like):
            return False
        if self._places == 1:
            return True
        if ticket.costly:
            return not like
        # The place of the costly ones is kept free while one of them needs it.
        reserved = any(other.costly for other in (*self._working, *self._waiting))
        return len(like) < self._places - reserved
