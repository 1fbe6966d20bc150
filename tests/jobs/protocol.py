"""The submission protocol, step by step, around the real decide().

One row, two workers, RunPod and people. Each SQL function of sql/migrations/0003 is one atomic
step; between any two a worker may die, a lease may end, a message may come. test_model.py
walks through all of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.jobs.model import ENDED, LIVE, OPEN, Hand, Look, Row, State, Sub, judge

MOVES = {  # sql/migrations/0002_guards.sql
    "queued": ("preparing", "cancelled", "failed", "submitted", "running", "completed"),
    "preparing": ("queued", "submitted", "running", "completed", "failed", "cancelled"),
    "submitted": ("running", "completed", "failed", "cancelled", "queued"),
    "running": ("completed", "failed", "cancelled", "queued"),
}


class Refused(Exception):
    """The table's own guard refused a write that the worker took for right."""


class Protocol:
    """Every step that may follow a state; `faults` are mistakes planted to see them found."""

    def __init__(
        self, *, most: int, tries: int, fine: bool = False, faults: frozenset[str] = frozenset()
    ) -> None:
        self.most, self.tries, self.fine, self.faults = most, tries, fine, faults

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """(what happens, the state after it)."""
        yield from self._people(state)
        yield from self._runpod(state)
        for worker in range(len(state.hands)):
            yield from self._worker(state, worker)
        row = state.row
        if row and row.status == "preparing" and row.lease:
            yield "lease ends", state.with_row(lease=False)
        yield from self._recover(state)
        yield from self._looks(state)

    def _people(self, state: State) -> Iterator[tuple[str, State]]:
        row = state.row
        if row is None:
            return
        if self.fine:
            yield "delete", state._replace(row=None)
        if row.status not in ENDED and not row.cancel:
            if row.status == "queued" and not state.states:
                yield "cancel", state.with_row(status="cancelled", cancel=True)
            else:
                yield "cancel", state.with_row(cancel=True)
        mendable = row.status in ("failed", "cancelled") and not state.states
        if mendable and row.try_number < self.tries:
            fresh = Row(attempt=row.attempt, try_number=row.try_number + 1)
            yield "retry", state._replace(row=fresh)

    def _runpod(self, state: State) -> Iterator[tuple[str, State]]:
        posting = {one.attempt for one in state.hands if one.stage == "begun"}
        for sub in state.subs:
            n = sub.attempt
            if sub.run == "queued":
                yield f"run {n} starts", state.with_sub(n, run="running")
            if sub.run == "running":
                yield f"run {n} completes", state.with_sub(n, run="done")
                yield f"run {n} fails", state.with_sub(n, run="failed")
            if sub.run == "done" and self.fine:
                yield f"result {n} is forgotten", state.with_sub(n, run="forgotten")
            doubtful = sub.state in OPEN or sub.run in LIVE
            if self.fine and doubtful and not sub.over and n not in posting:
                run = "dead" if sub.run in LIVE else sub.run
                yield f"ttl {n} passes", state.with_sub(n, over=True, run=run)

    def _worker(self, state: State, worker: int) -> Iterator[tuple[str, State]]:
        hand, row, who = state.hands[worker], state.row, f"worker {worker}"
        n = hand.attempt
        idle = state.with_hand(worker)
        if hand.stage == "idle":
            if row and row.status == "queued":
                claimed = state.with_row(
                    status="preparing", attempt=row.attempt + 1, owner=worker, lease=True
                )
                yield f"{who} claims", claimed.with_hand(worker, Hand("preparing", row.attempt + 1))
            return
        yield f"{who} dies", idle
        if hand.stage == "preparing":
            yield f"{who} gives {n} back", self._end_claim(idle, worker, n, "queued", None)
            yield f"{who} fails {n}", self._end_claim(idle, worker, n, "failed", None)
            if self._may_begin(state, worker, n):
                assert row is not None
                begun = state.with_row(submissions=row.submissions + 1, lease=True)
                subs = (*begun.subs, Sub(n, row.try_number))
                begun = begun._replace(subs=subs).with_hand(worker, Hand("begun", n))
                yield f"{who} begins {n}", begun
        elif hand.stage == "begun":
            sub = state.sub(n)
            assert sub is not None
            sent = state.with_sub(n, run="queued", posts=sub.posts + 1)
            yield f"{who} posts {n}: accepted", sent.with_hand(worker, Hand("answered", n))
            lost = "refused" if "5xx taken for a refusal" in self.faults else "doubtful"
            yield f"{who} posts {n}: answer lost", sent.with_hand(worker, Hand(lost, n))
            yield f"{who} posts {n}: not taken", state.with_hand(worker, Hand("doubtful", n))
            yield f"{who} posts {n}: refused", state.with_hand(worker, Hand("refused", n))
        elif hand.stage == "answered":
            after, wanted = self._record(idle, n)
            yield f"{who} records {n}", after
            if not wanted:
                yield f"{who} records {n}, cancels it", self._cancel(after, (n,))
        elif hand.stage == "doubtful":
            if "unknown is sent again" in self.faults:
                yield f"{who} sends {n} again", state.with_hand(worker, Hand("begun", n))
            yield f"{who} parks {n}", self._end_claim(idle, worker, n, "preparing", "unknown")
        elif hand.stage == "refused":
            yield f"{who} settles {n}", self._end_claim(idle, worker, n, "queued", "refused")

    def _may_begin(self, state: State, worker: int, n: int) -> bool:
        row = state.row
        if "unfenced begin" in self.faults:
            return row is not None and row.submissions < self.most and state.sub(n) is None
        return bool(
            row and row.status == "preparing" and row.attempt == n and row.owner == worker
            and row.lease and not row.cancel and row.submissions < self.most and not state.states
        )  # fmt: skip

    def _end_claim(
        self, state: State, worker: int, n: int, status: str, submission: str | None
    ) -> State:
        row, sub = state.row, state.sub(n)
        if submission:
            if sub is None or sub.state not in ("submitting", "unknown"):
                return state
            state = state.with_sub(n, state=submission, doubted=submission == "unknown")
            ours = row and row.try_number == sub.try_number
            if "a refusal is counted" in self.faults:
                ours = row and row.status == "preparing" and row.attempt == n
            if submission == "refused" and row and ours:
                state = state.with_row(submissions=row.submissions - 1)
        elif row is None or row.owner != worker:
            return state
        if row is None or row.status != "preparing" or row.attempt != n:
            return state
        if row.cancel and submission != "unknown":
            status = "cancelled"
        return state.with_row(status=status, owner=None, lease=False)

    def _recover(self, state: State) -> Iterator[tuple[str, State]]:
        row = state.row
        if row and row.status == "preparing" and row.owner is not None and not row.lease:
            sub = state.sub(row.attempt)
            freed = state.with_row(owner=None)
            if sub and sub.state in ("submitting", "unknown"):
                yield "recover", freed.with_sub(row.attempt, state="unknown", doubted=True)
            else:
                yield "recover", freed.with_row(status="cancelled" if row.cancel else "queued")
        if "recovery forgets orphans" not in self.faults:
            for sub in state.subs:
                held = row and row.owner is not None and row.attempt == sub.attempt
                if sub.state == "submitting" and not held:
                    orphan = state.with_sub(sub.attempt, state="unknown", doubted=True)
                    yield f"recover orphan {sub.attempt}", orphan

    def _record(self, state: State, n: int) -> tuple[State, bool]:
        row, sub = state.row, state.sub(n)
        if sub is None:
            return state, False
        moved = sub.known
        if not sub.known:
            state = state.with_sub(n, known=True, state="queued")
            moves = ("queued", "preparing")
            fenced = row and row.status in moves and row.try_number == sub.try_number
            if "record moves its own claim only" in self.faults:
                fenced = row and row.status == "preparing" and row.attempt == n
            if row and (fenced or "unfenced record" in self.faults):
                state = state.with_row(status="submitted", owner=None, lease=False)
                moved = True
        row = state.row
        waits = row is not None and row.status not in ENDED and row.try_number == sub.try_number
        # A row that another run has already makes this one unwanted.
        return state, bool(waits and row and not row.cancel and not row.ending and moved)

    def _looks(self, state: State) -> Iterator[tuple[str, State]]:
        if (look := state.look) is not None:
            yield "the looker dies", state._replace(look=None)
            yield from self._write(state._replace(look=None), look, "writes")
            return
        for sub in state.subs:
            n, noticed = sub.attempt, state
            seen: list[str] = []
            if sub.state in LIVE:
                seen += self._status(sub)
            elif sub.state == "unknown":
                seen.append("waited")
            for one in seen:
                look = Look(n, one, state.row, state.written)
                if self.fine:
                    yield f"poll sees {n} {one}", state._replace(look=look)
                yield from self._write(state, look, f"poll: {one},")
            if sub.run in ("done", "failed", "cancelled", "forgotten"):
                own_try = state.row is not None and state.row.try_number == sub.try_number
                if sub.state in OPEN or own_try:
                    noticed = state if sub.known else self._record(state, n)[0]
                    body = "done" if sub.run == "forgotten" else str(sub.run)
                    look = Look(n, body, noticed.row, noticed.written)
                    if self.fine:
                        yield f"webhook of {n}: {body}", noticed._replace(look=look)
                    yield from self._write(noticed, look, "webhook:")

    def _status(self, sub: Sub) -> list[str]:
        run = str(sub.run)
        if run == "queued":
            return ["queued", "slow"] if self.fine else ["queued"]
        return ["gone"] if run in ("dead", "forgotten") else [run]

    def _write(self, state: State, look: Look, how: str) -> Iterator[tuple[str, State]]:
        # What changed since the look makes the write not take; it is decided anew on what is there.
        row, subs = look.row, look.subs
        same = row == state.row and state._replace(subs=subs).states == state.states
        if not same and "unfenced write" not in self.faults:
            row, subs = state.row, state.subs
        hasty = "cancelled at once" in self.faults and row is not None and row.cancel
        if hasty and row is not None and row.status not in ENDED:
            yield f"{how} cancels", state.with_row(status="cancelled")
        out = judge(row, subs, look.attempt, look.seen, self.most)
        after = state
        for n, values in out.subs:
            new = dict(values)
            sub = after.sub(n)
            if sub is None:
                continue
            after = after.with_sub(
                n,
                state=new.get("state", sub.state),
                video=sub.video or bool(new.get("video_url")),
                code=new.get("error_code", sub.code),
                doubted=sub.doubted or new.get("state") == "lost",
            )
        if out.row is not None and after.row is not None:
            new = dict(out.row)
            status = str(new.get("status", after.row.status))
            legal = (after.row.status, *MOVES.get(after.row.status, ()))
            if status not in legal and "unfenced write" not in self.faults:
                raise Refused(f"{after.row.status} to {status}")
            after = after.with_row(
                status=status, ending=new.get("ending_code", after.row.ending), owner=None,
                lease=False,
            )  # fmt: skip
        label = f"{how} {look.attempt} {look.seen}"
        yield label, self._cancel(after, out.cancel)
        if out.cancel:
            yield f"{label}, dies before the cancel", after

    def _cancel(self, state: State, attempts: tuple[int, ...]) -> State:
        for n in attempts:
            sub = state.sub(n)
            if sub and sub.run in LIVE:
                state = state.with_sub(n, run="cancelled")
        return state
